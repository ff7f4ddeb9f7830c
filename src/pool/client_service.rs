//! What a client holds of a pool: the door, and the pool.
//!
//! Each method reads its message, asks the core or the history, and writes the answer. Who asks is in the object, never
//! in the message.

use std::rc::Rc;

use capnp::capability::FromClientHook;

use super::held::Held;
use super::hello::{check_hello, welcome};
use super::job_service::JobService;
use super::refused::{bad_request, no_such_job};
use super::renewing::renew_key;
use super::shard::Presence;
use super::shared::{Local, Shared};
use super::submitting::{read_request, submit};
use crate::core::id::{ConnectionId, JobId};
use crate::core::limits;
use crate::core::pool::Viewer;
use crate::core::view::PoolStatus;
use crate::process::clock;
use crate::schema::pool_capnp::{admin, client_door, job, pool};
use crate::store::JobQuery;
use crate::wire::{self};

/// The bootstrap object of a client's connection.
pub(super) struct ClientDoor {
    pub(super) local: Local,
    pub(super) viewer: Viewer,
    pub(super) connection: ConnectionId,
    pub(super) held: Held,
    pub(super) presence: Presence,
}

impl client_door::Server for ClientDoor {
    async fn hello(
        self: Rc<Self>,
        params: client_door::HelloParams,
        mut results: client_door::HelloResults,
    ) -> Result<(), capnp::Error> {
        let said = wire::hello::read(params.get()?.get_hello()?)?;
        self.held.gate.open();
        if let Some(refused) = check_hello("client", &said) {
            wire::refusal::write(&refused, results.get().init_refused());
            return Ok(());
        }
        welcome(&self.local.shared, self.viewer.name(), self.viewer.owner(), results.get().init_welcome());
        let service = PoolService {
            local: self.local.clone(),
            viewer: self.viewer.clone(),
            connection: self.connection,
            held: self.held.clone(),
            presence: self.presence.clone(),
        };
        if self.viewer.is_admin() {
            let admin: admin::Client = capnp_rpc::new_client(service);
            results.get().set_pool(admin.clone().cast_to());
            results.get().set_admin(admin);
        } else {
            results.get().set_pool(capnp_rpc::new_client(service));
        }
        Ok(())
    }
}

/// The pool, for one owner.
#[derive(Clone)]
pub(super) struct PoolService {
    pub(super) local: Local,
    pub(super) viewer: Viewer,
    pub(super) connection: ConnectionId,
    pub(super) held: Held,
    pub(super) presence: Presence,
}

impl PoolService {
    pub(super) fn shared(&self) -> &Shared {
        &self.local.shared
    }

    fn service(&self, id: JobId) -> JobService {
        JobService::new(self.local.clone(), self.viewer.clone(), self.held.clone(), id)
    }

    fn handle(&self, id: JobId) -> job::Client {
        capnp_rpc::new_client(self.service(id))
    }
}

impl pool::Server for PoolService {
    async fn submit(
        self: Rc<Self>,
        params: pool::SubmitParams,
        mut results: pool::SubmitResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let request = read_request(params.get_request())?;
        let spec = match wire::job::read_entering(params.get_spec()?) {
            Ok(spec) => spec,
            Err(error) => {
                wire::refusal::write(&bad_request(&error), results.get().init_refused());
                return Ok(());
            }
        };
        match submit(&self.local, &self.viewer, request, spec).await? {
            Ok(id) => {
                results.get().set_job(id.0);
                results.get().set_handle(self.handle(id));
            }
            Err(refused) => wire::refusal::write(&refused, results.get().init_refused()),
        }
        Ok(())
    }

    async fn job(
        self: Rc<Self>,
        params: pool::JobParams,
        mut results: pool::JobResults,
    ) -> Result<(), capnp::Error> {
        let id = JobId(params.get()?.get_id());
        let service = self.service(id);
        if service.info().await?.is_some() {
            results.get().set_handle(capnp_rpc::new_client(service));
        } else {
            let newest = self.shared().pool.update(|pool, _| pool.newest()).await?;
            wire::refusal::write(&no_such_job(id, newest), results.get().init_refused());
        }
        Ok(())
    }

    async fn jobs(
        self: Rc<Self>,
        params: pool::JobsParams,
        mut results: pool::JobsResults,
    ) -> Result<(), capnp::Error> {
        let _turn = self.held.gate.turn_to_answer().await;
        let params = params.get()?;
        let filter = wire::job::read_filter(params.get_filter()?)?;
        let before = Some(JobId(params.get_before())).filter(|id| id.0 > 0);
        let limit = wire::text::page(params.get_limit());
        let (viewer, asked) = (self.viewer.clone(), filter.clone());
        let page =
            self.shared().pool.update(move |pool, _| pool.list(&viewer, &asked, before, limit)).await?;
        let hour_ago = crate::core::time::WallTime(clock::wall().0 - 3_600_000);
        let query = JobQuery {
            owner: (!self.viewer.is_admin()).then(|| self.viewer.owner().to_owned()),
            before,
            states: filter.states.clone(),
            name: filter.name.clone(),
            submitted_since: filter.since,
            ended_since: None,
        };
        let recent = JobQuery { ended_since: (!filter.all).then_some(hour_ago), ..query.clone() };
        let wants_ended = filter.states.is_empty() || filter.states.iter().any(|state| state.is_over());
        let (rows, mut older) = if wants_ended {
            self.local.history(|history| history.jobs(&recent, limit))?
        } else {
            (Vec::new(), 0)
        };
        if wants_ended && !filter.all {
            let (_, all) = self.local.history(|history| history.jobs(&query, 0))?;
            older = all.saturating_sub(rows.len() as u64);
        }
        let mut jobs = page.jobs;
        for row in rows {
            if !jobs.iter().any(|job| job.id == row.id) {
                jobs.push(self.local.info_of_ended(&wire::record::decode_job(&row.body)?)?);
            }
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
        let shown = limit.min(wire::job::fitting(&jobs));
        older += page.older + jobs.len().saturating_sub(shown) as u64;
        jobs.truncate(shown);
        let mut results = results.get();
        results.set_older(older);
        results.set_newest(page.newest.0);
        wire::job::write_infos(&jobs, results.init_jobs(wire::text::count(&jobs)));
        Ok(())
    }

    async fn wait(
        self: Rc<Self>,
        params: pool::WaitParams,
        mut results: pool::WaitResults,
    ) -> Result<(), capnp::Error> {
        let ids = params.get()?.get_ids()?;
        wire::text::check_len(ids.len(), "the list of jobs", limits::PAGE_MAX)?;
        let services: Vec<JobService> = ids.iter().map(|id| self.service(JobId(id))).collect();
        // The request may be large, and this may take long.
        drop(params);
        let _waiting = self.held.waiting(services.len())?;
        let deadline = tokio::time::Instant::now() + self.shared().timing.wait_call;
        let (ended, unknown) = loop {
            let (mut ended, mut unknown, mut live) = (Vec::new(), Vec::new(), Vec::new());
            for service in &services {
                match service.info().await? {
                    None => unknown.push(service.id()),
                    Some(info) if info.ended.is_some() => ended.push(info),
                    Some(_) => live.push(service),
                }
            }
            if !ended.is_empty() || live.is_empty() {
                break (ended, unknown);
            }
            let overs = live.iter().map(|service| Box::pin(service.over()));
            let first = futures::future::select_all(overs);
            if tokio::time::timeout_at(deadline, first).await.is_err() {
                break (ended, unknown);
            }
        };
        let _turn = self.held.gate.turn_to_answer().await;
        let ended = &ended[..ended.len().min(wire::job::fitting(&ended))];
        wire::job::write_infos(ended, results.get().init_ended(wire::text::count(ended)));
        let mut list = results.get().init_unknown(wire::text::count(&unknown));
        for (n, id) in (0..).zip(&unknown) {
            list.set(n, id.0);
        }
        Ok(())
    }

    async fn workers(
        self: Rc<Self>,
        params: pool::WorkersParams,
        mut results: pool::WorkersResults,
    ) -> Result<(), capnp::Error> {
        let _turn = self.held.gate.turn_to_answer().await;
        let params = params.get()?;
        let after = wire::text::read(params.get_after(), "a name", limits::NAME_BYTES_MAX)?;
        let limit = wire::text::page(params.get_limit());
        let viewer = self.viewer.clone();
        let page =
            self.shared().pool.update(move |pool, now| pool.worker_page(now, &viewer, &after, limit)).await?;
        let shown = &page.workers[..page.workers.len().min(wire::worker::fitting(&page.workers))];
        results.get().set_more(page.more || shown.len() < page.workers.len());
        wire::worker::write_infos(shown, results.get().init_workers(wire::text::count(shown)));
        Ok(())
    }

    async fn status(
        self: Rc<Self>,
        _params: pool::StatusParams,
        mut results: pool::StatusResults,
    ) -> Result<(), capnp::Error> {
        let (load, space) = self.shared().pool.update(|pool, _| (pool.load(), pool.space())).await?;
        let info = &self.shared().info;
        let (output_bytes, output_limit_bytes) = self.shared().output.reader().usage();
        let status = PoolStatus {
            name: info.name.clone(),
            pid: std::process::id(),
            state: info.state.display().to_string(),
            listening: info.listening.clone(),
            since: info.since,
            workers: load.workers,
            silent: load.silent,
            slots: load.slots,
            used: load.used,
            queued: load.queued,
            running: load.running,
            unknown: load.unknown,
            build: crate::build().to_owned(),
            output_bytes,
            output_limit_bytes,
            space: Some(space),
            fingerprint: self.shared().keys.present(),
            newest: load.newest,
        };
        wire::status::write(&status, results.get().init_status());
        Ok(())
    }

    async fn cancel(
        self: Rc<Self>,
        params: pool::CancelParams,
        mut results: pool::CancelResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let how = wire::outcome::read_cancel(params.get_how()?);
        let ids = params.get_ids()?;
        wire::text::check_len(ids.len(), "the list of jobs", limits::PAGE_MAX)?;
        let mut list = results.get().init_results(ids.len());
        for (n, id) in (0..).zip(ids.iter()) {
            let service = self.service(JobId(id));
            service.cancel_into(Vec::new(), how, list.reborrow().get(n)).await?;
        }
        Ok(())
    }

    async fn renew_key(
        self: Rc<Self>,
        params: pool::RenewKeyParams,
        mut results: pool::RenewKeyResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let said = wire::succession::read_renewal(params.get_key(), params.get_signature())?;
        let renewed = renew_key(self.shared(), self.connection, self.viewer.source(), said).await?;
        if let Some(refused) = renewed {
            wire::refusal::write(&refused, results.get().init_refused());
        }
        Ok(())
    }
}
