//! The agent's loop: one link at a time to the pool, one executor, and the decisions of `core::agent` between them.

use std::rc::Rc;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::identity::Identity;
use super::options::{JoinMode, JoinOptions};
use super::registration::{self, ANOTHER_TOKEN, Membership, RegisterFailure, UNKNOWN_KEY};
use super::service::{Leaving, Order};
use super::signals::Asked;
use super::site::{Met, Site};
use super::uplink::{Answer, Haste, Uplink};
use super::{JoinError, pause};
use crate::core::agent::{Agent, AgentEffect};
use crate::core::attempt::FromExecutor;
use crate::core::id::Fence;
use crate::core::limits;
use crate::core::membership::{Carried, Registered, Report, Tenure};
use crate::core::output::Chunk;
use crate::core::refusal::Refusal;
use crate::net::key::KeyFile;
use crate::process::executor_client::ExecutorLine;
use crate::process::{JournalOf, facts};
use crate::say::{greet, say};

/// Heartbeats without an answer, and without any other byte, by which a link is given up.
const UNANSWERED_MAX: usize = 2;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was left to do.
    Drained,
    /// The agent left, and its executor and jobs go on.
    Left,
}

/// Why the loop is over.
enum Over {
    Ending(Ending),
    Failed(JoinError),
}

/// What goes on, unless the worker is at its end.
type Flow<T> = Result<T, Over>;

impl From<anyhow::Error> for Over {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(JoinError::Other(error))
    }
}

/// Whether the line to the executor is the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Held,
    MadeAnew,
}

/// The agent's process.
pub(super) struct Driver<S> {
    options: Rc<JoinOptions>,
    identity: Rc<Identity>,
    site: Rc<S>,
    agent: Agent,
    line: ExecutorLine,
    asked: mpsc::UnboundedReceiver<Asked>,
    announced: bool,
}

/// What happens to an agent that has registered.
enum Event {
    Executor(Option<FromExecutor>),
    Order(Option<Order>),
    Answer(Answer),
    Beat,
    /// Reports that were held back are to be sent.
    ReportsDue,
    LinkGone,
    Asked(Asked),
}

impl<S: Site> Driver<S> {
    pub(super) async fn open(
        options: Rc<JoinOptions>,
        identity: Rc<Identity>,
        site: S,
        asked: mpsc::UnboundedReceiver<Asked>,
    ) -> anyhow::Result<Self> {
        let Met { line, incarnation, held } = site.meet().await?;
        let agent = Agent::new(incarnation, held, options.slots);
        Ok(Self { options, identity, site: Rc::new(site), agent, line, asked, announced: false })
    }

    /// Works until it is drained, left or refused.
    pub(super) async fn run(mut self) -> Result<Ending, JoinError> {
        let over = match self.work().await {
            Ok(never) => match never {},
            Err(over) => over,
        };
        // Who joins here next is another one.
        if let Over::Ending(Ending::Drained) = over
            && self.options.tenure == Tenure::Ephemeral
        {
            self.site.forget_identity();
        }
        self.line.close().await;
        match over {
            Over::Ending(ending) => Ok(ending),
            Over::Failed(error) => Err(error),
        }
    }

    async fn work(&mut self) -> Flow<std::convert::Infallible> {
        let timing = self.options.timing;
        let mut failures = 0;
        let mut alone_since = Instant::now();
        loop {
            let rest = match self.register().await? {
                Ok(membership) => {
                    self.announce(&membership.told);
                    let registered = Instant::now();
                    self.serve(membership).await?;
                    self.agent.handle_disconnected();
                    alone_since = Instant::now();
                    // A pool that takes us and at once lets go is not to be hurried.
                    failures = if registered.elapsed() < timing.heartbeat { failures + 1 } else { 0 };
                    pause(timing.dial_pause_max, failures, self.site.random())
                }
                Err(RegisterFailure::ForGood(refused)) => return Err(self.give_up(refused).await),
                Err(RegisterFailure::NotNow(refused)) => {
                    tracing::warn!("refused for now: {}", refused.message);
                    timing.dial_pause_refused
                }
                Err(RegisterFailure::Away(reason)) => {
                    if failures == 0 {
                        tracing::warn!("waiting for the pool: {reason}");
                    }
                    failures += 1;
                    pause(timing.dial_pause_max, failures, self.site.random())
                }
            };
            // Nobody would end an agent in the background. What it could not tell is with the executor.
            let nobody_cares = self.options.mode == JoinMode::Background
                && self.agent.living() == 0
                && alone_since.elapsed() > timing.idle_exit;
            if nobody_cares {
                tracing::info!("the pool does not come back, and nothing runs");
                return Err(Over::Ending(Ending::Left));
            }
            self.meanwhile(tokio::time::sleep(rest)).await?;
        }
    }

    /// Does something without a link, with an eye on the executor and on signals.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Flow<T> {
        tokio::pin!(work);
        loop {
            if self.carry_out(None) {
                return Err(Over::Ending(Ending::Drained));
            }
            tokio::select! {
                biased;
                asked = next_asked(&mut self.asked) => self.obey(asked)?,
                result = &mut work => return Ok(result),
                word = self.line.recv() => { self.heed(word).await?; }
            }
        }
    }

    async fn register(&mut self) -> Flow<Result<Membership, RegisterFailure>> {
        // Of the present boot alone, and as many as a registration may carry.
        let boot = self.site.boot_id();
        let mut journals = self.site.journals();
        journals.truncate(limits::EXECUTORS_CARRIED_MAX - 1);
        let past = journals.iter().map(|journal| carried_of(journal, &boot));
        let carried = std::iter::once(self.agent.carried()).chain(past).collect();
        let incarnation = self.agent.incarnation();
        let (clock, site) = (self.options.clock, Rc::clone(&self.site));
        let began = clock().at;
        let facts = site.facts(incarnation, began);
        let registered = match self.meanwhile(registration::register(site, clock, facts, carried)).await? {
            Ok(_) if self.agent.incarnation() != incarnation => {
                return Ok(Err(RegisterFailure::Away("the executor was replaced".to_owned())));
            }
            Ok(membership) => membership,
            Err(failure) => return Ok(Err(failure)),
        };
        self.agent.handle_registered(began, began.0, &registered.told);
        self.site.forget_journals(&journals);
        Ok(Ok(registered))
    }

    /// Serves until the link is gone.
    async fn serve(&mut self, mut membership: Membership) -> Flow<()> {
        let mut beats = tokio::time::interval(self.options.timing.heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = membership.link.heard();
        loop {
            if self.carry_out(Some(&mut membership.uplink)) {
                membership.uplink.leave().await;
                return Err(Over::Ending(Ending::Drained));
            }
            let due = membership.uplink.due();
            let event = tokio::select! {
                // First what comes seldom: of output there may always be more.
                biased;
                asked = next_asked(&mut self.asked) => Event::Asked(asked),
                () = membership.link.gone() => Event::LinkGone,
                _ = beats.tick() => Event::Beat,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::ReportsDue,
                answer = membership.uplink.answer() => Event::Answer(answer),
                order = membership.orders.recv() => Event::Order(order),
                word = self.line.recv() => Event::Executor(word),
            };
            match event {
                Event::Order(Some(Order::Leaving(Leaving::Removed, _))) => {
                    drop(membership);
                    self.agent.handle_disconnected();
                    let removed = Refusal::new(UNKNOWN_KEY, "this worker was removed from the pool");
                    return Err(self.give_up(removed.hint(ANOTHER_TOKEN)).await);
                }
                Event::Order(Some(order)) => self.follow(order),
                Event::Order(None) | Event::LinkGone => return Ok(()),
                Event::Executor(word) => {
                    if self.heed(word).await? == Line::MadeAnew {
                        return Ok(());
                    }
                    while let Some(word) = self.line.try_next() {
                        self.agent.handle_executor(word);
                    }
                }
                Event::Answer(Answer::Failed(error)) => {
                    tracing::debug!(%error, "a call failed");
                    return Ok(());
                }
                Event::Answer(answer) => self.learn(answer),
                Event::Beat => {
                    let silent =
                        std::mem::replace(&mut heard, membership.link.heard()) == membership.link.heard();
                    if silent && membership.uplink.unanswered_beats() >= UNANSWERED_MAX {
                        tracing::warn!("the pool is not heard any more");
                        return Ok(());
                    }
                    self.agent.set_full(self.site.full(self.agent.full()));
                    membership.uplink.beat(self.agent.living(), self.agent.full());
                    self.renew_key_if_wanted(&membership);
                }
                Event::ReportsDue => {}
                Event::Asked(asked) => self.obey(asked)?,
            }
        }
    }

    /// Somebody has made another key: the pool takes it for the present one and cuts the line, which is then made anew
    /// with the new one.
    fn renew_key_if_wanted(&self, membership: &Membership) {
        let renewal = match self.identity.renewal() {
            Ok(Some(renewal)) => renewal,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "cannot use the next key"),
        };
        let (registrar, identity) = (membership.registrar.clone(), Rc::clone(&self.identity));
        let timing = self.options.timing;
        tokio::task::spawn_local(async move {
            // What passes is asked again with the next heartbeat.
            if let Err(RegisterFailure::ForGood(refused)) =
                registration::ask_for_key(&registrar, &renewal, timing).await
            {
                tracing::warn!("the pool does not take the new key: {}", refused.message);
                if let Some(Err(error)) = identity.key.as_ref().map(KeyFile::drop_next) {
                    tracing::warn!(%error, "cannot remove the next key");
                }
            }
        });
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Start(orders) => {
                let now = (self.options.clock)().at;
                orders.into_iter().for_each(|order| self.agent.start(now, order));
            }
            Order::Cancel(attempts) => {
                attempts.into_iter().for_each(|(fence, how)| self.agent.cancel(fence, how))
            }
            Order::TakeBack(attempts) => attempts.into_iter().for_each(|fence| self.agent.take_back(fence)),
            Order::Leaving(why, lease) => {
                self.agent.handle_leaving((self.options.clock)().at, lease);
                if why == Leaving::Idle {
                    self.agent.drain();
                }
            }
            Order::Renewed(said) => {
                let heeded = self.identity.pool.as_ref().map_or(Ok(()), |pool| pool.heed(&said));
                if let Err(error) = heeded {
                    tracing::warn!(%error, "cannot remember the pool's new key");
                }
            }
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
            Answer::Lease(sent, lease) => self.agent.handle_lease(sent, lease),
            Answer::Drained | Answer::Failed(_) => {}
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
        let Met { line, incarnation, held } = self.site.meet().await?;
        self.line = line;
        self.agent.handle_welcome(incarnation, held);
        Ok(Line::MadeAnew)
    }

    fn obey(&mut self, asked: Asked) -> Flow<()> {
        let speaks = self.options.mode == JoinMode::Foreground;
        let left = self.agent.living();
        match asked {
            Asked::Leave => return Err(Over::Ending(Ending::Left)),
            Asked::Drain => {
                if speaks && left > 0 {
                    say!("draining: {left} running, nothing new is taken (again to stop now)");
                }
                self.agent.drain();
            }
            Asked::Stop => {
                if speaks && left > 0 {
                    say!("stopping: what runs is ended, {left} running (again to leave at once)");
                }
                self.agent.stop();
            }
            Asked::Kill => {
                if speaks && left > 0 {
                    say!("killing: {left} did not end");
                }
                self.agent.stop();
                self.agent.kill();
            }
            Asked::GoNow => {
                if speaks && left > 0 {
                    say!("leaving: {left} are still being ended");
                }
                return Err(Over::Ending(Ending::Left));
            }
        }
        Ok(())
    }

    /// The pool says no, for good. If it does not know this worker any more, what runs here for it is ended first, and
    /// only another token lets it in again.
    async fn give_up(&mut self, refused: Refusal) -> Over {
        if refused.code == UNKNOWN_KEY {
            self.site.forget_identity();
            if self.agent.living() > 0 {
                tracing::warn!("the pool does not know this worker any more: what runs is ended");
            }
            self.agent.forsake();
            if let Err(over @ Over::Failed(_)) = self.meanwhile(std::future::pending::<()>()).await {
                return over;
            }
        }
        Over::Failed(JoinError::Refused(refused))
    }

    /// Carries out what the agent decided; whether it wants to end.
    fn carry_out(&mut self, mut uplink: Option<&mut Uplink>) -> bool {
        let mut exit = false;
        let mut chunks: Vec<(Fence, Chunk)> = Vec::new();
        let mut reports: Vec<Report> = Vec::new();
        for effect in self.agent.poll_effects() {
            match effect {
                AgentEffect::Tell(word) => self.line.send(word),
                AgentEffect::Send(fence, chunk) => chunks.push((fence, chunk)),
                AgentEffect::Report(report) => reports.push(report),
                AgentEffect::Drain => {
                    if let Some(uplink) = &mut uplink {
                        uplink.drain();
                    }
                }
                AgentEffect::Exit => exit = true,
            }
        }
        if let Some(uplink) = uplink {
            // Of what has only started nobody needs to know at once, nor that a slot is free while more waits for it.
            let started = |report: &Report| matches!(report, Report::Started(_));
            let soon = self.agent.has_more_to_start() || reports.iter().all(started);
            uplink.send(chunks, reports, if soon { Haste::Soon } else { Haste::Now });
        }
        exit
    }

    /// Says once that it has joined.
    fn announce(&mut self, told: &Registered) {
        if self.announced || self.options.mode == JoinMode::Background {
            tracing::info!(worker = %told.name, pool = %told.pool, "registered");
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
        greet!(
            "worker \"{}\" joined pool \"{}\": {slots} slots, {gib:.1} GiB, labels {labels}",
            told.name,
            told.pool
        );
        let (user, _) = self.options.jobs_user();
        greet!("jobs run as {user}, with no isolation. Waiting for jobs (Ctrl-C drains, again to stop now)");
        if let Some(owner) = &told.only_owner {
            greet!(
                "only {owner}'s jobs run here, since this worker could read the pool's state (--trust-submitters lifts that)"
            );
        }
    }
}

/// The next thing that is asked for; never, if nobody can ask.
async fn next_asked(asked: &mut mpsc::UnboundedReceiver<Asked>) -> Asked {
    match asked.recv().await {
        Some(asked) => asked,
        None => std::future::pending().await,
    }
}

/// What an executor left that is gone. That an attempt was never started is proven only as long as the machine has not
/// been booted since: a power cut takes a journal's last lines.
fn carried_of(journal: &JournalOf, boot: &str) -> Carried {
    let never_started = match journal.boot_id == boot {
        true => journal.never_started.iter().copied().collect(),
        false => Vec::new(),
    };
    Carried { incarnation: journal.incarnation, living: Vec::new(), ended: Vec::new(), never_started }
}
