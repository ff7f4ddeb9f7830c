//! A machine: a model executor that outlives its agent, and the site at which a real agent works.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clusterctl::core::attempt::ToExecutor;
use clusterctl::core::id::{Incarnation, Name};
use clusterctl::core::label::Labels;
use clusterctl::core::membership::{Facts, SubmitterTrust, Tenure};
use clusterctl::core::pool::NameChoice;
use clusterctl::core::time::Timestamp;
use clusterctl::core::timing::Timing;
use clusterctl::net::connection::{Connection, Peer};
use clusterctl::net::proxy::Proxies;
use clusterctl::process::JournalOf;
use clusterctl::process::executor_client::ExecutorLine;
use clusterctl::wire::executor as wire;
use clusterctl::worker::{
    self, JoinMode, JoinOptions, Met, PoolAddress, RegisterFailure, Registrar, RootJobs, Site,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::pool::{HOST, PORT, Witness, tell};
use super::time;
use crate::executor::{Executor, Habits, Journal};
use crate::history::Happened;
use crate::machine::facts;
use crate::random::Random;

/// How often an agent's line looks whether its executor has said something.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A machine, which outlives whatever runs on it.
pub struct Machine {
    pub name: Name,
    slots: u32,
    labels: Labels,
    timing: Timing,
    habits: Habits,
    boot_id: String,
    pub executor: Option<Executor>,
    journals: Vec<Journal>,
    random: Random,
    witness: Witness,
    /// The agent that has the line to the executor, counted.
    agent: u64,
}

pub type Shared = Rc<RefCell<Machine>>;

impl Machine {
    pub fn new(
        name: Name,
        (slots, labels): (u32, Labels),
        (timing, habits): (Timing, Habits),
        mut random: Random,
        witness: Witness,
    ) -> Self {
        let boot_id = format!("boot-{:x}", random.number());
        let (executor, journals, agent) = (None, Vec::new(), 0);
        Self { name, slots, labels, timing, habits, boot_id, executor, journals, random, witness, agent }
    }

    /// Lets its executor do what has come due.
    pub fn pass(&mut self) {
        let now = time::now().at;
        if let Some(executor) = &mut self.executor
            && executor.next(now).is_some_and(|next| next <= now)
        {
            executor.wake(now, &mut self.random);
        }
        self.witness();
    }

    fn witness(&mut self) {
        let Some(executor) = &mut self.executor else { return };
        for event in executor.take_happened() {
            tell(&self.witness, event);
        }
        if executor.is_dying {
            self.executor_dies();
        } else if self.executor.as_ref().is_some_and(Executor::may_end) {
            self.executor_is_gone();
        }
    }

    /// The executor is killed, and all that it runs with it.
    pub fn executor_dies(&mut self) {
        let Some(executor) = &mut self.executor else { return };
        executor.die(time::now().at);
        for event in executor.take_happened() {
            tell(&self.witness, event);
        }
        self.executor_is_gone();
    }

    fn executor_is_gone(&mut self) {
        if let Some(executor) = self.executor.take() {
            tell(&self.witness, Happened::ExecutorGone(executor.incarnation));
            self.journals.push(executor.journal);
        }
    }

    /// One of its keepers is killed.
    pub fn keeper_dies(&mut self) {
        let Some(executor) = &mut self.executor else { return };
        let running = executor.running();
        if !running.is_empty() {
            let fence = running[self.random.index(running.len())];
            executor.lose_keeper(time::now().at, fence);
        }
        self.witness();
    }

    /// From now on nothing goes wrong by chance.
    pub fn calm_down(&mut self) {
        self.habits.dies_in_a_start = 0;
        if let Some(executor) = &mut self.executor {
            executor.be_reliable();
        }
    }

    /// What still runs at the end.
    pub fn unfinished(&self) -> Vec<Happened> {
        self.executor.as_ref().map(Executor::unfinished).unwrap_or_default()
    }
}

/// The body of a worker's host: each time it is started, an agent's process.
pub async fn work(machine: Shared) -> turmoil::Result {
    let options = {
        let machine = machine.borrow();
        JoinOptions {
            pool: PoolAddress::Network(format!("{HOST}:{PORT}")),
            token: None,
            name: Some(machine.name.clone()),
            slots: machine.slots,
            labels: machine.labels.clone(),
            work_directory: "/".into(),
            state: None,
            trust: SubmitterTrust::Everybody,
            tenure: Tenure::Lasting,
            run_as: None,
            root: RootJobs::Allowed,
            mode: JoinMode::Background,
            stop_within: None,
            timing: machine.timing,
            clock: time::now,
            proxies: Proxies::none(),
        }
    };
    loop {
        // Nobody asks it to end.
        let (_asking, asked) = tokio::sync::mpsc::unbounded_channel();
        let ended = worker::work_at(
            At { machine: Rc::clone(&machine), options: options.clone() },
            options.clone(),
            asked,
        );
        match ended.await {
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "an agent ended"),
        }
        // Somebody starts it again.
        tokio::time::sleep(options.timing.dial_pause_max).await;
    }
}

/// A machine as an agent sees it.
struct At {
    machine: Shared,
    options: JoinOptions,
}

impl Site for At {
    async fn meet(&self) -> anyhow::Result<Met> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut machine = self.machine.borrow_mut();
        if machine.executor.is_none() {
            let incarnation = Incarnation(machine.random.number());
            let (boot_id, timing, habits) = (machine.boot_id.clone(), machine.timing, machine.habits);
            machine.executor = Some(Executor::new(incarnation, boot_id, timing, habits));
        }
        machine.agent += 1;
        let executor = machine.executor.as_mut().expect("it was just made");
        let (incarnation, held) = (executor.incarnation, executor.welcome());
        tokio::task::spawn_local(carry(far, Rc::clone(&self.machine), machine.agent, incarnation));
        let (read, write) = tokio::io::split(near);
        Ok(Met { line: ExecutorLine::over(read, write), incarnation, held })
    }

    fn journals(&self) -> Vec<JournalOf> {
        let of = |journal: &Journal| JournalOf {
            incarnation: journal.incarnation,
            boot_id: journal.boot_id.clone(),
            never_started: journal.never_started.clone(),
            ..JournalOf::default()
        };
        self.machine.borrow().journals.iter().map(of).collect()
    }

    fn forget_journals(&self, journals: &[JournalOf]) {
        let forgotten =
            |journal: &Journal| journals.iter().any(|other| other.incarnation == journal.incarnation);
        self.machine.borrow_mut().journals.retain(|journal| !forgotten(journal));
    }

    fn boot_id(&self) -> String {
        self.machine.borrow().boot_id.clone()
    }

    fn facts(&self, incarnation: Incarnation, began: Timestamp) -> Facts {
        let machine = self.machine.borrow();
        let offer = (machine.slots, machine.labels.clone());
        let boot_id = machine.boot_id.clone();
        tell(&machine.witness, Happened::Registers { executor: incarnation, boot_id });
        facts((machine.boot_id.clone(), incarnation), began.0, offer)
    }

    async fn dial(self: Rc<Self>) -> Result<Registrar, RegisterFailure> {
        let away = |error: std::io::Error| RegisterFailure::Away(error.to_string());
        let connecting = turmoil::net::TcpStream::connect((HOST, PORT));
        let stream = tokio::time::timeout(self.options.timing.dial_connect, connecting).await;
        let stream = stream.map_err(|late| away(late.into()))?.map_err(away)?;
        let connection = Connection { stream: Box::pin(stream), peer: Peer::Local { uid: 0 } };
        let name = self.machine.borrow().name.clone();
        worker::by_socket(connection, &self.options, &name, NameChoice::Given).await
    }

    fn full(&self, _before: Option<&str>) -> Option<String> {
        None
    }

    fn random(&self) -> u32 {
        u32::try_from(self.machine.borrow_mut().random.number() >> 32).unwrap()
    }

    fn forget_identity(&self) {}
}

/// Carries words between an agent and the executor, until one of them is gone.
async fn carry(mut line: DuplexStream, machine: Shared, agent: u64, incarnation: Incarnation) {
    let _gone = Gone { machine: Rc::clone(&machine), agent };
    let mut inbox = Vec::new();
    loop {
        let said = {
            let mut machine = machine.borrow_mut();
            let is_ours = machine.agent == agent;
            let executor = machine.executor.as_mut().filter(|executor| executor.incarnation == incarnation);
            let Some(executor) = executor.filter(|_| is_ours) else { return };
            executor.take_said()
        };
        for word in said {
            if line.write_all(&wire::encode_from(&word)).await.is_err() {
                return;
            }
        }
        match tokio::time::timeout(LOOK_AGAIN, line.read_buf(&mut inbox)).await {
            Err(_) => {}
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => {
                let mut machine = machine.borrow_mut();
                let machine = &mut *machine;
                let mut taken = 0;
                while let Some((body, length)) = wire::next_frame(&inbox[taken..]).unwrap() {
                    let word = wire::decode_to(body).unwrap();
                    taken += length;
                    let executor =
                        machine.executor.as_mut().filter(|executor| executor.incarnation == incarnation);
                    if let (Some(word), Some(executor)) = (word, executor) {
                        if let ToExecutor::Lease(until) = word {
                            // As its agent says: nobody else here sees when what is sent, and answered.
                            let lease = machine.timing.lease;
                            let leased =
                                Happened::Leased { executor: incarnation, sent: until - lease, lease };
                            tell(&machine.witness, leased);
                        }
                        executor.obey(time::now().at, word, &mut machine.random);
                    }
                }
                inbox.drain(..taken);
                machine.witness();
            }
        }
    }
}

/// The executor finds out that its agent is gone, however that comes.
struct Gone {
    machine: Shared,
    agent: u64,
}

impl Drop for Gone {
    fn drop(&mut self) {
        // Whoever looks at the machine just now sees to that.
        let Ok(mut machine) = self.machine.try_borrow_mut() else { return };
        if machine.agent == self.agent
            && let Some(executor) = &mut machine.executor
        {
            executor.lose_agent();
        }
    }
}
