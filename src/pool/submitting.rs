//! Submitting: a request that comes twice is one job, also when that has ended.

use std::sync::Arc;

use super::refused::submit_refusal;
use super::shared::Local;
use crate::core::id::{JobId, RequestId, SecretsId};
use crate::core::job::JobSpec;
use crate::core::pool::{Submit, SubmitError, Viewer};
use crate::core::refusal::Refusal;
use crate::wire::{self, WireError};

/// Submits for a caller; the same request again is the same job, also when that has ended.
pub(super) async fn submit(
    local: &Local,
    viewer: &Viewer,
    request: RequestId,
    mut spec: JobSpec,
) -> Result<Result<JobId, Refusal>, capnp::Error> {
    let refused = |error| submit_refusal(error, &local.shared.info.state);
    if let Some(row) = local.history(|history| history.by_request(viewer.owner(), request))? {
        let known = wire::record::decode_job(&row.body)?;
        let same = known.submission.spec.digest() == spec.digest();
        return Ok(if same { Ok(row.id) } else { Err(refused(SubmitError::RequestReused(row.id))) });
    }
    let id = SecretsId::of(viewer.owner(), request);
    let secrets = local.shared.secrets.seal(id, std::mem::take(&mut spec.secrets));
    spec.secrets =
        secrets.map_err(|error| capnp::Error::failed(format!("secrets cannot be kept: {error}")))?;
    let has_secrets = !spec.secrets.is_empty();
    let nonce = (local.shared.sources.nonce)().map_err(|error| capnp::Error::failed(error.to_string()))?;
    let submit = Submit { viewer: viewer.clone(), request, nonce, spec: Arc::new(spec) };
    let accepted = local.shared.pool.update(move |pool, now| pool.submit(now, submit)).await?;
    let is_full = matches!(
        accepted,
        Err(SubmitError::QueueFull { .. } | SubmitError::PoolFull(_) | SubmitError::DiskLow { .. })
    );
    if has_secrets && is_full {
        let _ = local.shared.secrets.erase(id);
    }
    Ok(accepted.map_err(refused))
}

/// Reads a request id.
pub(super) fn read_request(from: capnp::Result<capnp::data::Reader<'_>>) -> Result<RequestId, WireError> {
    Ok(RequestId(wire::text::read_array(from, "a request id")?))
}
