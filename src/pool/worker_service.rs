//! What a worker holds of its pool: the door, the registrar, and the four objects of a registration; and the pump that
//! calls back over the `Worker` that it passed.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::hello::{check_hello, welcome};
use super::peers::ToPeer;
use super::renewing::renew_key;
use super::shared::{Local, Stop};
use crate::core::attempt::AttemptEnd;
use crate::core::audit::AuditKind;
use crate::core::id::{ConnectionId, Fence, WorkerId};
use crate::core::job::JobSpec;
use crate::core::limits;
use crate::core::membership::{Report, Start};
use crate::core::outcome::Cancel;
use crate::core::pool::{Decision, Pool, RegisterError};
use crate::core::refusal::Refusal;
use crate::net::gate::GateState;
use crate::schema::worker_capnp::{
    LeaveReason, heartbeat, output, registrar, registration, reports, worker, worker_door,
};
use crate::wire;

/// A worker that does not answer to a farewell.
const LEAVING_WITHIN: Duration = Duration::from_secs(2);

/// The bootstrap object of a worker's connection.
pub(super) struct WorkerDoor(pub(super) Registrar);

impl worker_door::Server for WorkerDoor {
    async fn hello(
        self: Rc<Self>,
        params: worker_door::HelloParams,
        mut results: worker_door::HelloResults,
    ) -> Result<(), capnp::Error> {
        let said = wire::hello::read(params.get()?.get_hello()?)?;
        self.0.gate.open();
        if let Some(refused) = check_hello("worker", &said) {
            wire::refusal::write(&refused, results.get().init_refused());
            return Ok(());
        }
        welcome(&self.0.local.shared, &self.0.name, "", results.get().init_welcome());
        results.get().set_registrar(capnp_rpc::new_client(self.0.clone()));
        Ok(())
    }
}

/// What joins a worker to the pool.
#[derive(Clone)]
pub(super) struct Registrar {
    pub(super) local: Local,
    pub(super) worker: WorkerId,
    pub(super) name: String,
    pub(super) connection: ConnectionId,
    pub(super) source: String,
    pub(super) gate: GateState,
}

/// What the objects of one registration share.
struct Member {
    local: Local,
    connection: ConnectionId,
    gate: GateState,
    /// Attempts that this worker may speak of.
    known: RefCell<BTreeSet<Fence>>,
}

impl registrar::Server for Registrar {
    async fn register(
        self: Rc<Self>,
        params: registrar::RegisterParams,
        mut results: registrar::RegisterResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let facts = wire::worker::read_facts(params.get_facts()?)?;
        let carried = wire::worker::read_carried(params.get_carried()?)?;
        let worker = params.get_worker()?;
        let there = carried.iter().flat_map(|carried| carried.living.iter().chain(&carried.ended));
        let member = Rc::new(Member {
            local: self.local.clone(),
            connection: self.connection,
            gate: self.gate.clone(),
            known: RefCell::new(there.copied().collect()),
        });
        let (sender, orders) = mpsc::channel(limits::PUMP_QUEUE_MAX);
        let shared = &self.local.shared;
        shared.peers.set_pump(self.connection, sender);
        let (id, connection) = (self.worker, self.connection);
        let (who, source) = (self.name.clone(), self.source.clone());
        let register = move |pool: &mut Pool, now| {
            let registered = pool.register(now, id, connection, facts, carried);
            if let Err(error @ (RegisterError::Elsewhere(_) | RegisterError::Copied(_))) = &registered {
                // Two hold one key: an operator wants to know.
                let what = AuditKind::NotConnected;
                pool.decided(now, Decision { what, who, source, detail: error.to_string() });
            }
            registered
        };
        let registered = shared.pool.update(register).await?;
        let mut told = match registered {
            Err(error) => {
                wire::refusal::write(&register_refusal(&error), results.get().init_refused());
                return Ok(());
            }
            Ok(told) => told,
        };
        told.pool.clone_from(&shared.info.name);
        // What the pool does not know to be there is nothing that this worker may speak of.
        member.known.borrow_mut().retain(|fence| !told.kill.contains(fence) && !told.forget.contains(fence));
        let known = member.known.borrow().clone();
        told.positions =
            known.into_iter().map(|fence| (fence, shared.output.reader().durable_end(fence))).collect();
        tracing::info!(worker = %told.name, connection = connection.0, "registered");
        tokio::task::spawn_local(pump(Rc::clone(&member), worker, orders));
        tokio::task::spawn_local(listen_for(Rc::clone(&member), self.gate.clone()));
        let mut registered = results.get().init_registered();
        wire::worker::write_registered(&told, registered.reborrow());
        registered.set_registration(capnp_rpc::new_client(Registration(Rc::clone(&member))));
        registered.set_reports(capnp_rpc::new_client(Reports(Rc::clone(&member))));
        registered.set_output(capnp_rpc::new_client(Output(Rc::clone(&member))));
        registered.set_heartbeat(capnp_rpc::new_client(Heartbeat(member)));
        Ok(())
    }

    async fn renew_key(
        self: Rc<Self>,
        params: registrar::RenewKeyParams,
        mut results: registrar::RenewKeyResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let said = wire::succession::read_renewal(params.get_key(), params.get_signature())?;
        if let Some(refused) = renew_key(&self.local.shared, self.connection, &self.source, said).await? {
            wire::refusal::write(&refused, results.get().init_refused());
        }
        Ok(())
    }
}

fn register_refusal(error: &RegisterError) -> Refusal {
    let code = match error {
        RegisterError::Unknown => "auth-unknown-key",
        RegisterError::Elsewhere(_) | RegisterError::Copied(_) => "worker-elsewhere",
        RegisterError::Outdated => "outdated",
        RegisterError::Slots(_) => "too-many-slots",
    };
    tracing::warn!(%error, "a worker was refused");
    Refusal::new(code, error)
}

/// Calls back over the capability that the worker passed, in the order in which the pool decided.
async fn pump(member: Rc<Member>, worker: worker::Client, mut orders: mpsc::Receiver<ToPeer>) {
    let mut calls = JoinSet::new();
    let mut waiting = VecDeque::new();
    // It may have come by a former key, also just before the pool had another one.
    let said = member.local.shared.keys.successions();
    if !said.is_empty() {
        waiting.push_back(ToPeer::Renewed(Arc::new(said)));
    }
    let stopping = member.local.shared.stopping();
    tokio::pin!(stopping);
    loop {
        let mut batch = Vec::new();
        let stop = tokio::select! {
            biased;
            count = orders.recv_many(&mut batch, 256) => if count == 0 { return } else { Stop::No },
            () = member.gate.turn_to_call(), if !waiting.is_empty() => Stop::No,
            stop = &mut stopping => stop,
        };
        if stop != Stop::No {
            let why = if stop == Stop::Idle { LeaveReason::Idle } else { LeaveReason::Restart };
            // The pool waits a moment for what it still has to say, and then goes.
            say_leaving(&worker, why, member.local.shared.timing.lease_at_shutdown).await;
            return;
        }
        if batch.iter().any(|order| matches!(order, ToPeer::Removed)) {
            say_leaving(&worker, LeaveReason::Removed, Duration::ZERO).await;
            member.local.shared.peers.cut(member.connection);
            return;
        }
        waiting.extend(batch);
        send(&member, &worker, &mut waiting, &mut calls);
        if waiting.len() > limits::PUMP_QUEUE_MAX {
            tracing::warn!(connection = member.connection.0, "cut a worker that does not answer");
            member.local.shared.peers.cut(member.connection);
            return;
        }
        while calls.try_join_next().is_some() {}
    }
}

/// A worker's last word from this pool. One that does not answer is left without it.
async fn say_leaving(worker: &worker::Client, why: LeaveReason, lease: Duration) {
    let mut request = worker.leaving_request();
    request.get().set_reason(why);
    request.get().set_lease_ms(wire::text::millis(Some(lease)));
    let _ = tokio::time::timeout(LEAVING_WITHIN, request.send().promise).await;
}

/// Sends orders as few calls as their size allows, without waiting for the answers: a call that fails shows as the end
/// of the connection. What is more than a worker accepts at a time stays.
fn send(member: &Member, worker: &worker::Client, waiting: &mut VecDeque<ToPeer>, calls: &mut JoinSet<()>) {
    while !waiting.is_empty() && member.gate.may_call() {
        let (mut starts, mut bytes): (Vec<Start>, usize) = (Vec::new(), 0);
        let mut cancels: Vec<(Fence, Cancel)> = Vec::new();
        let mut wanted_back: Vec<Fence> = Vec::new();
        let mut renewed = None;
        while let Some(order) = waiting.pop_front() {
            match order {
                ToPeer::Start(start) => {
                    member.known.borrow_mut().extend(&start.fences);
                    let Some(start) = with_secrets(member, start) else { continue };
                    let size = wire::worker::start_bytes(&start);
                    if bytes + size > limits::BATCH_BYTES_MAX && !starts.is_empty() {
                        waiting.push_front(ToPeer::Start(start));
                        break;
                    }
                    bytes += size;
                    starts.push(start);
                }
                ToPeer::Cancel(attempts) => cancels.extend(attempts),
                ToPeer::TakeBack(attempts) => wanted_back.extend(attempts),
                ToPeer::Renewed(said) => renewed = Some(said),
                ToPeer::Removed => {}
            }
        }
        if let Some(said) = renewed {
            let mut request = worker.renewed_request();
            wire::succession::write_all(&said, request.get().init_successions(wire::text::count(&said)));
            let telling = request.send().promise;
            calls.spawn_local(async move { drop(telling.await) });
        }
        if !starts.is_empty() {
            let mut request = worker.start_request();
            wire::worker::write_starts(&starts, request.get().init_jobs(wire::text::count(&starts)));
            let starting = request.send().promise;
            calls.spawn_local(async move { drop(starting.await) });
        }
        if !cancels.is_empty() {
            let mut request = worker.cancel_request();
            wire::worker::write_cancels(&cancels, request.get().init_cancels(wire::text::count(&cancels)));
            let cancelling = request.send().promise;
            calls.spawn_local(async move { drop(cancelling.await) });
        }
        if !wanted_back.is_empty() {
            let mut request = worker.take_back_request();
            let attempts = request.get().init_attempts(wire::text::count(&wanted_back));
            wire::fence::write_list(&wanted_back, attempts);
            let asking = request.send().promise;
            calls.spawn_local(async move { drop(asking.await) });
        }
    }
}

/// A start as its worker needs it: with the secrets in its environment. Without them it cannot start.
fn with_secrets(member: &Member, start: Start) -> Option<Start> {
    let spec = &start.spec;
    if spec.secrets.is_empty() {
        return Some(start);
    }
    let shared = &member.local.shared;
    match shared.secrets.unseal(start.secrets.unwrap_or_default(), &spec.secrets) {
        Ok(secrets) => {
            let env = spec.env.iter().cloned().chain(secrets).collect();
            let spec = Arc::new(JobSpec { env, secrets: Vec::new(), ..(**spec).clone() });
            Some(Start { spec, ..start })
        }
        Err(error) => {
            tracing::error!(job = start.job.0, %error, "a job's secrets cannot be opened");
            let (pool, connection) = (shared.pool.clone(), member.connection);
            let unstarted =
                move |fence| Report::Ended(AttemptEnd::not_started(fence, "its secrets are gone"));
            let reports = start.fences.into_iter().map(unstarted).collect();
            tokio::task::spawn_local(async move {
                // The pool may have ended; then this is found out again.
                let _ = pool.update(move |pool, now| pool.report(now, connection, reports)).await;
            });
            None
        }
    }
}

/// Any byte is a sign of life, not only a heartbeat.
async fn listen_for(member: Rc<Member>, gate: GateState) {
    let shared = &member.local.shared;
    let mut told = gate.heard();
    loop {
        tokio::time::sleep(shared.timing.heartbeat).await;
        if gate.heard() == told {
            continue;
        }
        told = gate.heard();
        let (connection, at) = (member.connection, told);
        // Only the registration's objects keep this going: with them gone nobody is to be heard.
        if Rc::strong_count(&member) == 1
            || shared.pool.update(move |pool, _| pool.heard(connection, at)).await.is_err()
        {
            return;
        }
    }
}

/// The membership itself: dropping it ends it, with the connection.
struct Registration(Rc<Member>);

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.local.shared.peers.cut(self.0.connection);
    }
}

impl registration::Server for Registration {
    async fn drain(
        self: Rc<Self>,
        _params: registration::DrainParams,
        _results: registration::DrainResults,
    ) -> Result<(), capnp::Error> {
        let connection = self.0.connection;
        Ok(self.0.local.shared.pool.update(move |pool, _| pool.drain(connection)).await?)
    }

    async fn leave(
        self: Rc<Self>,
        _params: registration::LeaveParams,
        _results: registration::LeaveResults,
    ) -> Result<(), capnp::Error> {
        let connection = self.0.connection;
        Ok(self.0.local.shared.pool.update(move |pool, now| pool.leave(now, connection)).await?)
    }
}

struct Heartbeat(Rc<Member>);

impl heartbeat::Server for Heartbeat {
    async fn beat(
        self: Rc<Self>,
        params: heartbeat::BeatParams,
        mut results: heartbeat::BeatResults,
    ) -> Result<(), capnp::Error> {
        let connection = self.0.connection;
        let full = wire::worker::read_full(params.get()?.get_full())?;
        let beat = move |pool: &mut Pool, now| pool.heartbeat(now, connection, full);
        let lease = self.0.local.shared.pool.update(beat).await?;
        let lease = lease.ok_or_else(|| capnp::Error::failed("this registration has ended".to_owned()))?;
        results.get().set_lease_ms(wire::text::millis(Some(lease)));
        Ok(())
    }
}

struct Reports(Rc<Member>);

impl reports::Server for Reports {
    async fn report(
        self: Rc<Self>,
        params: reports::ReportParams,
        mut results: reports::ReportResults,
    ) -> Result<(), capnp::Error> {
        let reports = wire::worker::read_reports(params.get()?.get_reports()?)?;
        let shared = &self.0.local.shared;
        for report in &reports {
            // The record of an ending commits after its output is durable.
            if let Report::Ended(end) = report
                && end.tail.is_empty()
                && self.0.known.borrow().contains(&end.fence)
            {
                shared.output.durable_to(end.fence, end.totals.end()).await;
            }
        }
        let connection = self.0.connection;
        let forget = shared.pool.update(move |pool, now| pool.report(now, connection, reports)).await?;
        let mut known = self.0.known.borrow_mut();
        for fence in &forget {
            known.remove(fence);
        }
        wire::fence::write_list(&forget, results.get().init_forget(wire::text::count(&forget)));
        Ok(())
    }
}

struct Output(Rc<Member>);

impl output::Server for Output {
    async fn write(
        self: Rc<Self>,
        params: output::WriteParams,
        _results: output::WriteResults,
    ) -> Result<(), capnp::Error> {
        let mut appends = Vec::new();
        for (fence, chunks) in wire::output::read_parts(params.get()?.get_parts()?)? {
            if !self.0.known.borrow().contains(&fence) {
                continue;
            }
            let output = self.0.local.shared.output.clone();
            appends.push(async move { output.append(fence, chunks).await });
        }
        for result in futures::future::join_all(appends).await {
            result.map_err(|error| capnp::Error::failed(error.to_string()))?;
        }
        Ok(())
    }
}
