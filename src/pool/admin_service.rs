//! What the pool's own user may do beside what every client may: tokens, local workers, removals, the end.

use std::rc::Rc;
use std::time::Duration;

use super::client_service::PoolService;
use super::refused::bad_request;
use super::renewing::renew_pool_key;
use super::shared::Stop;
use super::worker_service::Registrar;
use crate::core::id::{Name, TokenId};
use crate::core::limits;
use crate::core::pool::{NameChoice, Pool, TokenError};
use crate::core::refusal::Refusal;
use crate::net::token::{Token, secret_hash};
use crate::schema::pool_capnp::{StopReason, admin};
use crate::wire::{self, WireError};

fn no_such_worker(name: &str) -> Refusal {
    Refusal::new("no-such-worker", format!("no worker \"{name}\"")).hint("clusterctl workers")
}

impl admin::Server for PoolService {
    async fn create_token(
        self: Rc<Self>,
        params: admin::CreateTokenParams,
        mut results: admin::CreateTokenResults,
    ) -> Result<(), capnp::Error> {
        let wish = match wire::token::read_wish(params.get()?.get_wish()?) {
            Ok(wish) => wish,
            Err(error) => {
                wire::refusal::write(&bad_request(&error), results.get().init_refused());
                return Ok(());
            }
        };
        let role = wish.role;
        let secret = Token::new_secret().map_err(|error| capnp::Error::failed(error.to_string()))?;
        let hash = secret_hash(&secret);
        let viewer = self.viewer.clone();
        let made = self
            .shared()
            .pool
            .update(move |pool, now| {
                let id = pool.create_token(now, &viewer, wish, hash)?;
                Ok::<_, TokenError>(pool.tokens(now).into_iter().find(|token| token.id == id))
            })
            .await?;
        match made {
            Ok(Some(info)) => {
                let token = Token::new(role, &self.shared().keys.present(), info.id, secret);
                results.get().set_token(token.to_string());
                wire::token::write_info(&info, results.get().init_info());
            }
            Ok(None) => return Err(capnp::Error::failed("the token that was just made is gone".to_owned())),
            Err(error) => {
                wire::refusal::write(&Refusal::new("token-refused", error), results.get().init_refused());
            }
        }
        Ok(())
    }

    async fn tokens(
        self: Rc<Self>,
        _params: admin::TokensParams,
        mut results: admin::TokensResults,
    ) -> Result<(), capnp::Error> {
        let tokens = self.shared().pool.update(|pool, now| pool.tokens(now)).await?;
        let mut list = results.get().init_tokens(wire::text::count(&tokens));
        for (n, token) in (0..).zip(&tokens) {
            wire::token::write_info(token, list.reborrow().get(n));
        }
        Ok(())
    }

    async fn revoke_token(
        self: Rc<Self>,
        params: admin::RevokeTokenParams,
        mut results: admin::RevokeTokenResults,
    ) -> Result<(), capnp::Error> {
        let id = TokenId(params.get()?.get_id());
        let viewer = self.viewer.clone();
        let revoked = self.shared().pool.update(move |pool, now| pool.revoke_token(now, &viewer, id)).await?;
        if revoked.is_err() {
            let refused =
                Refusal::new("no-such-token", format!("no token {id}")).hint("clusterctl token list");
            wire::refusal::write(&refused, results.get().init_refused());
        }
        Ok(())
    }

    async fn local_worker(
        self: Rc<Self>,
        params: admin::LocalWorkerParams,
        mut results: admin::LocalWorkerResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let name = wire::text::read(params.get_name(), "a name", limits::NAME_BYTES_MAX)?;
        let name = Name::parse(&name).map_err(WireError::from)?;
        let choice = if params.get_given() { NameChoice::Given } else { NameChoice::Default };
        let known = self.shared().pool.update(move |pool, now| pool.local_worker(now, &name, choice)).await?;
        match known {
            Ok((worker, name)) => {
                self.presence.release();
                let registrar = Registrar {
                    local: self.local.clone(),
                    worker,
                    name,
                    connection: self.connection,
                    source: self.viewer.source().to_owned(),
                    gate: self.held.gate.clone(),
                };
                results.get().set_registrar(capnp_rpc::new_client(registrar));
            }
            Err(error) => {
                let refused = Refusal::new("name-taken", error).hint("--name NAME gives the worker another");
                wire::refusal::write(&refused, results.get().init_refused());
            }
        }
        Ok(())
    }

    async fn remove_worker(
        self: Rc<Self>,
        params: admin::RemoveWorkerParams,
        mut results: admin::RemoveWorkerResults,
    ) -> Result<(), capnp::Error> {
        let name = wire::text::read(params.get()?.get_name(), "a name", limits::NAME_BYTES_MAX)?;
        let (viewer, asked) = (self.viewer.clone(), name.clone());
        match self.shared().pool.update(move |pool, now| pool.remove_worker(now, &viewer, &asked)).await? {
            Ok(lost) => results.get().set_lost(lost),
            Err(_) => wire::refusal::write(&no_such_worker(&name), results.get().init_refused()),
        }
        Ok(())
    }

    async fn drain_worker(
        self: Rc<Self>,
        params: admin::DrainWorkerParams,
        mut results: admin::DrainWorkerResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let name = wire::text::read(params.get_name(), "a name", limits::NAME_BYTES_MAX)?;
        let deadline = params.get_deadline().then(|| Duration::from_millis(params.get_deadline_ms()));
        let (viewer, asked) = (self.viewer.clone(), name.clone());
        let drain = move |pool: &mut Pool, now| pool.drain_worker(now, &viewer, &asked, deadline);
        match self.shared().pool.update(drain).await? {
            Ok(running) => results.get().set_running(running),
            Err(_) => wire::refusal::write(&no_such_worker(&name), results.get().init_refused()),
        }
        Ok(())
    }

    async fn resume_worker(
        self: Rc<Self>,
        params: admin::ResumeWorkerParams,
        mut results: admin::ResumeWorkerResults,
    ) -> Result<(), capnp::Error> {
        let name = wire::text::read(params.get()?.get_name(), "a name", limits::NAME_BYTES_MAX)?;
        let (viewer, asked) = (self.viewer.clone(), name.clone());
        let resume = move |pool: &mut Pool, now| pool.resume_worker(now, &viewer, &asked);
        if self.shared().pool.update(resume).await?.is_err() {
            wire::refusal::write(&no_such_worker(&name), results.get().init_refused());
        }
        Ok(())
    }

    async fn clients(
        self: Rc<Self>,
        params: admin::ClientsParams,
        mut results: admin::ClientsResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let after = wire::text::read(params.get_after(), "a name", limits::NAME_BYTES_MAX)?;
        let limit = wire::text::page(params.get_limit());
        let mut page = self.shared().pool.update(move |pool, _| pool.client_page(&after, limit)).await?;
        let keys: Vec<_> = page.clients.iter().map(|client| client.key).collect();
        for (client, connections) in page.clients.iter_mut().zip(self.shared().peers.connections_of(&keys)) {
            client.connections = connections;
        }
        results.get().set_more(page.more);
        let mut list = results.get().init_clients(wire::text::count(&page.clients));
        for (n, client) in (0..).zip(&page.clients) {
            wire::client::write_info(client, list.reborrow().get(n));
        }
        Ok(())
    }

    async fn revoke_client(
        self: Rc<Self>,
        params: admin::RevokeClientParams,
        mut results: admin::RevokeClientResults,
    ) -> Result<(), capnp::Error> {
        let name = wire::text::read(params.get()?.get_name(), "a name", limits::NAME_BYTES_MAX)?;
        let text = format!("no client \"{name}\"");
        let viewer = self.viewer.clone();
        let revoked =
            self.shared().pool.update(move |pool, now| pool.revoke_client(now, &viewer, &name)).await?;
        if revoked.is_err() {
            let refused = Refusal::new("no-such-client", text).hint("clusterctl clients");
            wire::refusal::write(&refused, results.get().init_refused());
        }
        Ok(())
    }

    async fn audit(
        self: Rc<Self>,
        params: admin::AuditParams,
        mut results: admin::AuditResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let (after, limit) = (params.get_after(), wire::text::page(params.get_limit()));
        let (rows, newest) = self.local.history(|history| history.audit(after, limit))?;
        results.get().set_newest(newest);
        let shown = wire::text::fitting(rows.iter().map(|row| row.body.len() + 128)).min(rows.len());
        let mut list = results.get().init_rows(wire::text::count(&rows[..shown]));
        for (n, row) in (0..).zip(&rows[..shown]) {
            let mut to = list.reborrow().get(n);
            to.set_number(row.number);
            to.set_before(&row.before);
            to.set_body(&row.body);
            to.set_chain(&row.chain);
        }
        Ok(())
    }

    async fn renew_pool_key(
        self: Rc<Self>,
        params: admin::RenewPoolKeyParams,
        mut results: admin::RenewPoolKeyResults,
    ) -> Result<(), capnp::Error> {
        let answer = Duration::from_millis(params.get()?.get_answer_ms());
        match renew_pool_key(self.shared(), &self.viewer, answer).await? {
            Ok(key) => results.get().set_fingerprint(&key.0),
            Err(refused) => wire::refusal::write(&refused, results.get().init_refused()),
        }
        Ok(())
    }

    async fn stop(
        self: Rc<Self>,
        params: admin::StopParams,
        mut results: admin::StopResults,
    ) -> Result<(), capnp::Error> {
        let reason = params.get()?.get_why()?;
        let load = self.shared().pool.update(|pool, _| pool.load()).await?;
        results.get().set_running(load.running + load.unknown);
        results.get().set_queued(load.queued);
        match reason {
            StopReason::Asked | StopReason::Handover => self.shared().stop(Stop::Asked),
        }
        Ok(())
    }
}
