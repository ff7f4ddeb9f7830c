//! The agent's loop: one link at a time to the pool, one executor, and the decisions of `core::agent` between them.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::options::{JoinMode, JoinOptions, PoolAddress};
use super::service::{Leaving, Order, WorkerService};
use super::uplink::{Answer, Uplink};
use super::{Home, Identity, JoinError, pause};
use crate::core::agent::{Agent, AgentEffect};
use crate::core::attempt::FromExecutor;
use crate::core::id::{Fence, Incarnation};
use crate::core::limits;
use crate::core::membership::{Carried, Facts, Registered, Report};
use crate::core::output::Chunk;
use crate::core::pool::NameChoice;
use crate::core::refusal::Refusal;
use crate::net::connection::{self, Link};
use crate::net::dial::{self, DialError};
use crate::net::tls::Expected;
use crate::process::executor::ExecutorOptions;
use crate::process::executor_client::{ExecutorReceiver, ExecutorSender, connect_or_start};
use crate::process::{JournalOf, clock, facts, forget_journals, read_journals};
use crate::schema::pool_capnp::client_door;
use crate::schema::worker_capnp::{registrar, worker, worker_door};
use crate::store::place;
use crate::wire;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was left to do.
    Drained,
    /// The agent left, and its executor and jobs go on.
    Left,
}

/// The agent's process.
pub(super) struct Driver {
    options: JoinOptions,
    identity: Identity,
    home: Home,
    agent: Agent,
    incarnation: Incarnation,
    to_executor: ExecutorSender,
    from_executor: ExecutorReceiver,
    signals: Signals,
    announced: bool,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

#[derive(Clone, Copy)]
enum Asked {
    Drain,
    Leave,
}

/// Whether the line to the executor is the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Held,
    MadeAnew,
}

/// An executor that has said what it has.
struct Met {
    agent: Agent,
    incarnation: Incarnation,
    to: ExecutorSender,
    from: ExecutorReceiver,
}

async fn meet_executor(options: &JoinOptions, home: &Home) -> anyhow::Result<Met> {
    let executor = ExecutorOptions {
        directory: home.directory.join("executor"),
        work_directory: options.work_directory.clone(),
        timing: options.timing,
    };
    let (to, mut from) = connect_or_start(&executor).await?;
    let Some(FromExecutor::Welcome { incarnation, held, .. }) = from.recv().await else {
        anyhow::bail!("the executor does not speak our protocol");
    };
    Ok(Met { agent: Agent::new(incarnation, held), incarnation, to, from })
}

/// A registration with all that belongs to it.
struct Membership {
    uplink: Uplink,
    orders: mpsc::UnboundedReceiver<Order>,
    told: Registered,
    /// Ends the link when it is dropped.
    _stop: oneshot::Sender<()>,
    gone: oneshot::Receiver<()>,
}

/// What happened, of all that an agent waits for.
enum Event {
    Executor(Option<FromExecutor>),
    Order(Option<Order>),
    Answer(Answer),
    Beat,
    LinkGone,
    Asked(Asked),
}

impl Driver {
    pub(super) async fn open(options: JoinOptions, identity: Identity, home: Home) -> anyhow::Result<Self> {
        let executor = meet_executor(&options, &home).await?;
        Ok(Self {
            agent: executor.agent,
            incarnation: executor.incarnation,
            to_executor: executor.to,
            from_executor: executor.from,
            options,
            identity,
            home,
            signals: Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hang_up: signal(SignalKind::hangup())?,
            },
            announced: false,
        })
    }

    /// Works until it is drained, left or refused.
    pub(super) async fn run(mut self) -> Result<Ending, JoinError> {
        let mut attempts = 0;
        let mut asked_before = false;
        loop {
            match self.register().await {
                Ok(membership) => {
                    attempts = 0;
                    self.announce(&membership.told);
                    if let Some(ending) = self.serve(membership, &mut asked_before).await? {
                        return Ok(ending);
                    }
                    self.agent.handle_disconnected();
                    self.carry_out(&mut None);
                }
                Err(RegisterFailure::ForGood(refused)) => return Err(JoinError::Refused(refused)),
                Err(RegisterFailure::Away(reason)) => {
                    if attempts == 0 {
                        tracing::warn!("waiting for the pool: {reason}");
                    }
                    attempts += 1;
                }
            }
            if let Some(ending) = self.wait(pause(&self.options.timing, attempts), &mut asked_before).await? {
                return Ok(ending);
            }
        }
    }

    /// Waits for the next dial, with an eye on the executor and on signals.
    async fn wait(&mut self, pause: Duration, asked_before: &mut bool) -> anyhow::Result<Option<Ending>> {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(None),
                word = self.from_executor.recv() => { self.heed(word).await?; }
                asked = self.signals.next() => if let Some(ending) = self.obey(asked, asked_before) {
                    return Ok(Some(ending));
                },
            }
            if self.carry_out(&mut None) {
                return Ok(Some(Ending::Drained));
            }
        }
    }

    async fn serve(
        &mut self,
        membership: Membership,
        asked_before: &mut bool,
    ) -> anyhow::Result<Option<Ending>> {
        let mut membership = Some(membership);
        let mut beats = tokio::time::interval(self.options.timing.heartbeat);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if self.carry_out(&mut membership) {
            return Ok(Some(Ending::Drained));
        }
        while let Some(present) = &mut membership {
            let event = tokio::select! {
                order = present.orders.recv() => Event::Order(order),
                word = self.from_executor.recv() => Event::Executor(word),
                answer = present.uplink.answer() => Event::Answer(answer),
                _ = beats.tick() => Event::Beat,
                _ = &mut present.gone => Event::LinkGone,
                asked = self.signals.next() => Event::Asked(asked),
            };
            match event {
                Event::Order(Some(Order::Leaving(why, lease))) => {
                    self.agent.handle_lease(clock::boottime(), clock::boottime(), lease);
                    match why {
                        Leaving::Restart => {}
                        Leaving::Idle => self.agent.drain(),
                        Leaving::Removed => self.agent.stop(),
                    }
                }
                Event::Order(Some(order)) => self.follow(order),
                Event::Order(None) | Event::LinkGone => membership = None,
                Event::Executor(word) => {
                    if self.heed(word).await? == Line::MadeAnew {
                        return Ok(None);
                    }
                    while let Some(word) = self.from_executor.try_next() {
                        self.agent.handle_executor(word);
                    }
                }
                Event::Answer(Answer::Failed(error)) => {
                    tracing::debug!(%error, "a call failed");
                    membership = None;
                }
                Event::Answer(answer) => self.learn(answer),
                Event::Beat => present.uplink.beat(self.agent.living()),
                Event::Asked(asked) => {
                    if let Some(ending) = self.obey(asked, asked_before) {
                        return Ok(Some(ending));
                    }
                }
            }
            if self.carry_out(&mut membership) {
                if let Some(membership) = membership {
                    let leave = membership.uplink.registration.leave_request().send().promise;
                    let _ = tokio::time::timeout(Duration::from_secs(2), leave).await;
                }
                return Ok(Some(Ending::Drained));
            }
        }
        Ok(None)
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Start(orders) => {
                orders.into_iter().for_each(|order| self.agent.start(clock::boottime(), order))
            }
            Order::Cancel(attempts) => {
                attempts.into_iter().for_each(|(fence, how)| self.agent.cancel(fence, how))
            }
            Order::Forget(fences) => fences.into_iter().for_each(|fence| self.agent.forget(fence)),
            Order::Leaving(..) => {}
        }
    }

    fn learn(&mut self, answer: Answer) {
        match answer {
            Answer::Durable(positions) => {
                positions
                    .into_iter()
                    .for_each(|(fence, position)| self.agent.handle_durable(fence, position));
            }
            Answer::Forget(fences) => fences.into_iter().for_each(|fence| self.agent.forget(fence)),
            Answer::Lease(sent, lease) => self.agent.handle_lease(clock::boottime(), sent, lease),
            Answer::Failed(_) => {}
        }
    }

    /// Heeds the executor. If the line to it is gone, it is met again, or another is started; what the pool has to know
    /// of that it learns by the next registration.
    async fn heed(&mut self, word: Option<FromExecutor>) -> anyhow::Result<Line> {
        if let Some(word) = word {
            self.agent.handle_executor(word);
            return Ok(Line::Held);
        }
        tracing::warn!("the line to the executor is gone");
        let executor = meet_executor(&self.options, &self.home).await?;
        self.agent = executor.agent;
        self.incarnation = executor.incarnation;
        self.to_executor = executor.to;
        self.from_executor = executor.from;
        Ok(Line::MadeAnew)
    }

    fn obey(&mut self, asked: Asked, asked_before: &mut bool) -> Option<Ending> {
        match asked {
            Asked::Leave => return Some(Ending::Left),
            Asked::Drain if *asked_before => {
                eprintln!("stopping: everything that runs is ended");
                self.agent.stop();
            }
            Asked::Drain => {
                if self.options.mode == JoinMode::Foreground {
                    let left = self.agent.living();
                    eprintln!("draining: {left} running, nothing new is taken (again to stop now)");
                }
                self.agent.drain();
            }
        }
        *asked_before = true;
        None
    }

    /// Carries out what the agent decided; whether it wants to end.
    fn carry_out(&mut self, membership: &mut Option<Membership>) -> bool {
        let mut exit = false;
        let mut chunks: Vec<(Fence, Chunk)> = Vec::new();
        let mut reports: Vec<Report> = Vec::new();
        for effect in self.agent.poll_effects() {
            match effect {
                AgentEffect::Tell(word) => self.to_executor.send(word),
                AgentEffect::Send(fence, chunk) => chunks.push((fence, chunk)),
                AgentEffect::Report(report) => reports.push(report),
                AgentEffect::Drain => {
                    if let Some(membership) = membership {
                        membership.uplink.drain();
                    }
                }
                AgentEffect::Exit => exit = true,
            }
        }
        if let Some(membership) = membership {
            membership.uplink.send(chunks);
            if !reports.is_empty() {
                membership.uplink.report(&reports);
            }
        }
        exit
    }

    /// Says once that it has joined.
    fn announce(&mut self, told: &Registered) {
        tracing::info!(worker = %told.name, pool = %told.pool, "registered");
        if self.announced || self.options.mode == JoinMode::Background {
            return;
        }
        self.announced = true;
        let gib = facts::memory_bytes() as f64 / f64::from(1 << 30);
        let shown = ["hostname", "cpus", "memory", "kernel"];
        let mut labels = facts::labels();
        labels.retain(|key, _| !shown.contains(&key.as_str()));
        labels.extend(self.options.labels.clone());
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (slots, labels) = (self.options.slots, labels.join(" "));
        println!(
            "worker \"{}\" joined pool \"{}\": {slots} slots, {gib:.1} GiB, labels {labels}",
            told.name, told.pool
        );
        let user = facts::user();
        println!(
            "jobs run as {user}, with no isolation. Waiting for jobs (Ctrl-C drains, again to stop now)"
        );
        if let Some(owner) = &told.only_owner {
            println!(
                "only {owner}'s jobs run here, since this worker could read the pool's state (--trust-submitters lifts that)"
            );
        }
    }

    /// Dials, says hello and registers.
    async fn register(&mut self) -> Result<Membership, RegisterFailure> {
        let dial_number = clock::boottime().0;
        let journals = read_journals(&self.home.directory.join("executor")).unwrap_or_default();
        let (link, registrar) = match &self.options.pool {
            PoolAddress::Local(state) => self.local_registrar(&place::socket_path(state)).await?,
            PoolAddress::Network(address) => self.network_registrar(address).await?,
        };
        let (orders, received) = mpsc::unbounded_channel();
        let mut request = registrar.0.register_request();
        request.get().set_worker(capnp_rpc::new_client::<worker::Client, _>(WorkerService(orders)));
        let carried = self.carried(&journals);
        wire::worker::write_facts(&self.facts(dial_number), request.get().init_facts());
        wire::worker::write_carried(&carried, request.get().init_carried(wire::text::count(&carried)));
        let sent = clock::boottime();
        let calling = tokio::time::timeout(Duration::from_secs(20), request.send().promise);
        let answer = calling
            .await
            .map_err(|_| away("the pool does not answer"))?
            .map_err(|error| away(&error.to_string()))?;
        let answer = answer.get().map_err(|error| away(&error.to_string()))?;
        if answer.has_refused() {
            let refused = answer.get_refused().map_err(|error| away(&error.to_string()))?;
            return Err(judge(wire::refusal::read(refused).map_err(|error| away(&error.to_string()))?));
        }
        let membership =
            self.membership(&answer, link, received).map_err(|error| away(&error.to_string()))?;
        self.agent.handle_registered(sent, dial_number, &membership.told);
        if let Err(error) = forget_journals(&self.home.directory.join("executor"), &journals) {
            tracing::warn!(%error, "cannot remove an old journal");
        }
        Ok(membership)
    }

    fn membership(
        &self,
        answer: &registrar::register_results::Reader<'_>,
        link: Running,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Membership, capnp::Error> {
        let registered = answer.get_registered()?;
        let told = wire::worker::read_registered(registered)?;
        let uplink = Uplink::new(
            registered.get_registration()?,
            registered.get_reports()?,
            registered.get_output()?,
            registered.get_heartbeat()?,
        );
        Ok(Membership { uplink, orders, told, _stop: link.stop, gone: link.gone })
    }

    /// Of the present executor, and of those before it that the pool may still ask for.
    fn carried(&self, journals: &[JournalOf]) -> Vec<Carried> {
        let past = journals.iter().map(|journal| Carried {
            incarnation: journal.incarnation,
            living: Vec::new(),
            ended: Vec::new(),
            never_started: journal.never_started.iter().copied().collect(),
        });
        std::iter::once(self.agent.carried()).chain(past).collect()
    }

    fn facts(&self, dial: u64) -> Facts {
        let mut labels = facts::labels();
        labels.extend(self.options.labels.clone());
        Facts {
            boot_id: facts::boot_id(),
            incarnation: self.incarnation,
            dial,
            slots: self.options.slots.min(limits::SLOTS_MAX),
            labels,
            memory_bytes: facts::memory_bytes(),
            uid: facts::uid(),
            trust: self.options.trust,
            user: facts::user(),
            pid: std::process::id(),
        }
    }

    async fn network_registrar(&self, address: &str) -> Result<(Running, Registrar), RegisterFailure> {
        let (Some(key), Some(pool)) = (&self.identity.key, self.identity.pool) else {
            return Err(away("this worker has no key"));
        };
        let connection = dial::dial(address, key, Expected::Key(pool), &self.options.timing).await;
        let connection = connection.map_err(|error| match error {
            DialError::OtherKey { presented } => {
                let text = format!("{address} presented a different key than before");
                RegisterFailure::ForGood(
                    Refusal::new("key-mismatch", text).fact("expected", pool).fact("presented", presented),
                )
            }
            error => away(&error.to_string()),
        })?;
        let (door, link): (worker_door::Client, Link) = connection::dialled(connection, clock::boottime);
        let running = Running::start(link);
        let mut request = door.hello_request();
        wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
        let hello = tokio::time::timeout(self.options.timing.handshake, request.send().promise);
        let answer = match hello.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if running.state.denied() => {
                let refused =
                    Refusal::new("auth-unknown-key", "the pool does not know this key").fact("pool", address);
                return Err(RegisterFailure::ForGood(
                    refused.hint("on the pool's machine: clusterctl token create --worker"),
                ));
            }
            Ok(Err(error)) => return Err(away(&error.to_string())),
            Err(_) => return Err(away("the pool does not answer")),
        };
        let answer = answer.get().map_err(|error| away(&error.to_string()))?;
        if answer.has_refused() {
            let refused = answer.get_refused().map_err(|error| away(&error.to_string()))?;
            let refused = wire::refusal::read(refused).map_err(|error| away(&error.to_string()))?;
            return Err(RegisterFailure::ForGood(refused));
        }
        let registrar = answer.get_registrar().map_err(|error| away(&error.to_string()))?;
        Ok((running, Registrar(registrar)))
    }

    async fn local_registrar(
        &self,
        socket: &std::path::Path,
    ) -> Result<(Running, Registrar), RegisterFailure> {
        let connection = dial::dial_local(socket).await.map_err(|error| away(&error.to_string()))?;
        let (door, link): (client_door::Client, Link) = connection::dialled(connection, clock::boottime);
        let running = Running::start(link);
        let mut request = door.hello_request();
        wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
        let admin = request.send().pipeline.get_admin();
        let mut request = admin.local_worker_request();
        request.get().set_name(self.identity.name.as_str());
        request.get().set_given(self.identity.choice == NameChoice::Given);
        let calling = tokio::time::timeout(self.options.timing.handshake, request.send().promise);
        let answer = calling
            .await
            .map_err(|_| away("the pool does not answer"))?
            .map_err(|error| away(&error.to_string()))?;
        let answer = answer.get().map_err(|error| away(&error.to_string()))?;
        if answer.has_refused() {
            let refused = answer.get_refused().map_err(|error| away(&error.to_string()))?;
            return Err(RegisterFailure::ForGood(
                wire::refusal::read(refused).map_err(|error| away(&error.to_string()))?,
            ));
        }
        let registrar = answer.get_registrar().map_err(|error| away(&error.to_string()))?;
        Ok((running, Registrar(registrar)))
    }
}

struct Registrar(registrar::Client);

/// A link that is driven beside the agent.
struct Running {
    stop: oneshot::Sender<()>,
    gone: oneshot::Receiver<()>,
    state: crate::net::gate::GateState,
}

impl Running {
    fn start(link: Link) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (went, gone) = oneshot::channel();
        let state = link.state();
        tokio::task::spawn_local(async move {
            // Dropping the sender stops as well.
            let stop = async { drop(stopped.await) };
            if let Err(error) = link.run(stop).await {
                tracing::debug!(%error, "the link ended");
            }
            let _ = went.send(());
        });
        Self { stop, gone, state }
    }
}

impl Signals {
    /// The next that somebody asks for. Cancel-safe.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Drain,
            _ = self.interrupt.recv() => Asked::Drain,
            _ = self.hang_up.recv() => Asked::Leave,
        }
    }
}

/// Why there is no registration.
enum RegisterFailure {
    /// Try again.
    Away(String),
    /// Do not.
    ForGood(Refusal),
}

fn away(reason: &str) -> RegisterFailure {
    RegisterFailure::Away(reason.to_owned())
}

/// Some refusals pass by themselves.
fn judge(refused: Refusal) -> RegisterFailure {
    match refused.code.as_str() {
        "outdated" | "worker-elsewhere" => RegisterFailure::Away(refused.message),
        _ => RegisterFailure::ForGood(refused),
    }
}
