//! Many workers in one process: the real agent once for each, with a key of its own, over TLS; none of them runs anything.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clusterctl::core::attempt::Held;
use clusterctl::core::id::{Fingerprint, Incarnation, Name};
use clusterctl::core::label::Labels;
use clusterctl::core::membership::{Facts, SubmitterTrust, Tenure};
use clusterctl::core::pool::NameChoice;
use clusterctl::core::time::Timestamp;
use clusterctl::core::timing::Timing;
use clusterctl::net::dial::{self, Route};
use clusterctl::net::enrol;
use clusterctl::net::key::KeyPair;
use clusterctl::net::proxy::Proxies;
use clusterctl::net::token::Token;
use clusterctl::process::executor_client::ExecutorLine;
use clusterctl::process::{JournalOf, clock};
use clusterctl::worker::{
    self, JoinMode, JoinOptions, Met, PoolAddress, RegisterFailure, Registrar, RootJobs, Site,
};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::cluster::{Cluster, cpu_of, wait_or};

/// Keys that ask to be let in at a time: more than the pool hears from one source would wait for each other.
const ENROLLING: usize = 6;

/// When agents dial a pool that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// By themselves, with the pauses that they make.
    AsTheyDo,
    /// All in the same moment, when it is there again.
    AtOnce,
}

/// Whether agents may dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Shut,
}

/// What is known of a fleet's agents, by their numbers.
#[derive(Default)]
struct Seen {
    /// Since when they are members.
    members: BTreeMap<usize, Instant>,
    /// Those that would dial, and may not.
    waiting: BTreeMap<usize, Instant>,
}

/// Agents that work until this is dropped.
pub struct Fleet {
    count: usize,
    seen: Arc<Mutex<Seen>>,
    way: watch::Sender<Way>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<tokio::sync::Notify>,
}

/// How long a fleet was away, from when its pool listened again.
pub struct Homecoming {
    /// Until half of it was back.
    pub half: Duration,
    /// Until all of it was.
    pub all: Duration,
    /// Until the pool showed all of them as ready, asked when they said so.
    pub shown: Duration,
    /// What the pool's processors did for each of them.
    pub pool_cpu: Duration,
    count: usize,
}

impl Homecoming {
    /// Workers that came back in a second, until the pool showed them.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.shown.as_secs_f64()
    }
}

impl Fleet {
    /// So many join a pool.
    pub fn join(cluster: &Cluster, count: usize) -> Self {
        let uses = count.to_string();
        let token = cluster.operator.run(["token", "create", "--worker", "--uses", &uses, "-q"]).ok();
        let token: Token = token.trim().parse().unwrap();
        let (seen, (way, opened)) = (Arc::new(Mutex::default()), watch::channel(Way::Open));
        let stop = Arc::new(tokio::sync::Notify::new());
        let part = Part { address: cluster.address.clone(), seen: Arc::clone(&seen), way: opened };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let work = async {
                tokio::select! {
                    () = work(&part, &token, count) => {}
                    () = stopped.notified() => {}
                }
            };
            LocalSet::new().block_on(&runtime, work);
        });
        let fleet = Self { count, seen, way, thread: Some(thread), stop };
        fleet.wait_for_all("have joined", |seen| seen.members.len());
        fleet
    }

    /// Kills its pool, starts it again on the same port, and waits until all are back.
    pub fn come_home(&self, cluster: &mut Cluster, how: Return) -> Homecoming {
        if how == Return::AtOnce {
            self.way.send_replace(Way::Shut);
        }
        cluster.kill_pool();
        self.seen().members.clear();
        if how == Return::AtOnce {
            self.wait_for_all("wait to dial", |seen| seen.waiting.len());
        }
        cluster.restart_pool();
        let (begun, cpu) = (Instant::now(), cpu_of(cluster.pool_pid()));
        self.way.send_replace(Way::Open);
        self.wait_for_all("are back", |seen| seen.members.len());
        let pool_cpu = (cpu_of(cluster.pool_pid()) - cpu) / u32::try_from(self.count).unwrap();
        let mut back: Vec<_> = self.seen().members.values().copied().collect();
        self.wait_for_all("are shown as ready", |_| shown_as_ready(cluster));
        let shown = begun.elapsed();
        back.sort();
        // With the pauses of a fleet some have dialled before the word that the pool listens was read.
        let until = |at: usize| back[at].saturating_duration_since(begun);
        let (half, all) = (until(self.count / 2), until(self.count - 1));
        Homecoming { half, all, shown, pool_cpu, count: self.count }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    fn wait_for_all(&self, what: &str, how_many: impl Fn(&Seen) -> usize) {
        let words = || format!("{} of {} {what}", how_many(&self.seen()), self.count);
        wait_or(words, || (how_many(&self.seen()) == self.count).then_some(()));
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.notify_one();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "an agent panicked");
    }
}

fn shown_as_ready(cluster: &Cluster) -> usize {
    let workers = cluster.operator.run(["workers", "--output", "json"]).ok();
    let workers: serde_json::Value = serde_json::from_str(&workers).unwrap();
    workers.as_array().unwrap().iter().filter(|worker| worker["state"] == "ready").count()
}

/// What all agents share.
#[derive(Clone)]
struct Part {
    address: String,
    seen: Arc<Mutex<Seen>>,
    way: watch::Receiver<Way>,
}

/// Has all keys let in, and works with each from then on.
async fn work(part: &Part, token: &Token, count: usize) {
    let (mut enrolling, mut agents) = (JoinSet::new(), JoinSet::new());
    for number in 0..count {
        if number >= ENROLLING {
            agents.spawn_local(work_as(enrolling.join_next().await.unwrap().unwrap()));
        }
        let (part, token) = (part.clone(), token.clone());
        enrolling.spawn_local(async move { At::enrol(part, &token, number).await });
    }
    while let Some(enrolled) = enrolling.join_next().await {
        agents.spawn_local(work_as(enrolled.unwrap()));
    }
    let ended = agents.join_next().await;
    panic!("an agent of the fleet has ended: {ended:?}");
}

async fn work_as(at: At) -> Result<worker::Ending, worker::JoinError> {
    let options = at.options.clone();
    // Nobody asks it to end.
    let (_asking, asked) = mpsc::unbounded_channel();
    worker::work_at(at, options, asked).await
}

/// Where one agent works: a machine with nothing on it.
struct At {
    number: usize,
    part: Part,
    key: KeyPair,
    pool: Fingerprint,
    options: JoinOptions,
}

impl At {
    async fn enrol(part: Part, token: &Token, number: usize) -> Self {
        let (key, name) = (KeyPair::generate().unwrap(), Name::parse(&format!("n{number}")).unwrap());
        let route = Route::direct(Timing::default());
        let wish = (&name, NameChoice::Given);
        let enrolled = enrol::enrol(&part.address, &key, token, wish, &route).await.unwrap();
        let options = JoinOptions {
            pool: PoolAddress::Network(part.address.clone()),
            token: None,
            name: Some(name),
            slots: 1,
            labels: Labels::new(),
            work_directory: "/".into(),
            state: None,
            trust: SubmitterTrust::Everybody,
            tenure: Tenure::Lasting,
            run_as: None,
            root: RootJobs::Allowed,
            mode: JoinMode::Background,
            stop_within: None,
            timing: route.timing,
            clock: clock::now,
            proxies: Proxies::none(),
        };
        Self { number, part, key, pool: enrolled.pool_key, options }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.part.seen.lock().unwrap()
    }
}

impl Site for At {
    async fn meet(&self) -> anyhow::Result<Met> {
        let (near, mut far) = tokio::io::duplex(16 << 10);
        tokio::task::spawn_local(async move {
            let mut unheeded = Vec::new();
            while far.read_buf(&mut unheeded).await.is_ok_and(|count| count > 0) {
                unheeded.clear();
            }
        });
        let (read, write) = tokio::io::split(near);
        let held: Vec<Held> = Vec::new();
        Ok(Met { line: ExecutorLine::over(read, write), incarnation: self.incarnation(), held })
    }

    fn journals(&self) -> Vec<JournalOf> {
        Vec::new()
    }

    /// What an agent does when it has registered.
    fn forget_journals(&self, _journals: &[JournalOf]) {
        self.seen().members.insert(self.number, Instant::now());
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.number)
    }

    fn facts(&self, incarnation: Incarnation, began: Timestamp) -> Facts {
        Facts {
            boot_id: self.boot_id(),
            incarnation,
            dial: began.0,
            slots: self.options.slots,
            labels: Labels::new(),
            memory_bytes: 0,
            uid: 1,
            trust: self.options.trust,
            user: "nobody".into(),
            pid: std::process::id(),
            tenure: self.options.tenure,
        }
    }

    async fn dial(self: Rc<Self>) -> Result<Registrar, RegisterFailure> {
        let mut way = self.part.way.clone();
        if *way.borrow() == Way::Shut {
            self.seen().waiting.insert(self.number, Instant::now());
        }
        way.wait_for(|way| *way == Way::Open).await.unwrap();
        self.seen().waiting.remove(&self.number);
        let route = Route::direct(self.options.timing);
        let connection = dial::dial(&self.part.address, &self.key, self.pool, &route).await?;
        worker::by_network(connection, &self.options, &self.part.address).await
    }

    fn full(&self, _before: Option<&str>) -> Option<String> {
        None
    }

    fn random(&self) -> u32 {
        let mut random = [0; 4];
        getrandom::fill(&mut random).unwrap();
        u32::from_le_bytes(random)
    }

    fn forget_identity(&self) {}
}

impl At {
    fn incarnation(&self) -> Incarnation {
        Incarnation(self.number as u64 + 1)
    }
}
