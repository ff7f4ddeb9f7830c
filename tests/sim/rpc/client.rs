//! A client's host: submits, asks, cancels, over connections that break, until everything that it wanted has ended.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::{JobId, RequestId, TaskId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::range::RangeSet;
use clusterctl::net::connection::{self, Connection, Peer};
use clusterctl::process::facts;
use clusterctl::schema::pool_capnp::{client_door, job, pool};
use clusterctl::schema::types_capnp;
use clusterctl::wire;
use tokio::sync::oneshot;

use super::pool::{HOST, PORT, Witness, tell};
use super::time;
use crate::history::{Happened, Observer, TaskSight};
use crate::plan::Plan;
use crate::random::Random;
use crate::wish::{is_endless, some_spec};

/// What is not answered by then is asked again, over another connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Jobs that a client submits.
const JOBS: usize = 14;

/// What a client wants and knows; it outlives its connections.
pub struct Client {
    observer: Observer,
    random: Random,
    plan: Plan,
    witness: Witness,
    /// Submitted, and not yet acknowledged.
    asking: Option<(RequestId, Arc<JobSpec>)>,
    jobs: Vec<Known>,
    patience: Patience,
}

/// Whether a client waits for what may never end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Waits,
    /// It cancels whatever it looks at, and submits nothing more.
    GivesUp,
}

struct Known {
    job: JobId,
    spec: Arc<JobSpec>,
    is_over: bool,
}

impl Known {
    fn tasks(&self) -> RangeSet {
        self.spec.array.as_ref().map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()))
    }
}

pub type Shared = Rc<RefCell<Client>>;

impl Client {
    pub fn new(number: u64, random: Random, plan: Plan, witness: Witness) -> Self {
        let (asking, jobs, patience) = (None, Vec::new(), Patience::Waits);
        Self { observer: Observer(number), random, plan, witness, asking, jobs, patience }
    }

    /// Whether all that it wanted has ended.
    pub fn is_done(&self) -> bool {
        let has_asked = self.jobs.len() == JOBS || self.patience == Patience::GivesUp;
        self.asking.is_none() && has_asked && self.jobs.iter().all(|known| known.is_over)
    }

    /// What was acknowledged, with its tasks.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, RangeSet)> {
        self.jobs.iter().map(|known| (known.job, known.tasks()))
    }

    /// It waits no longer for what no machine may run, or what never ends.
    pub fn give_up(&mut self) {
        self.patience = Patience::GivesUp;
    }

    /// What it waits for, for people.
    pub fn waits_for(&self) -> String {
        let open: Vec<String> =
            self.jobs.iter().filter(|known| !known.is_over).map(|known| known.job.to_string()).collect();
        format!("{} of {JOBS} submitted, not over: {}", self.jobs.len(), open.join(" "))
    }
}

/// The body of a client's host.
pub async fn ask(client: Shared) -> turmoil::Result {
    while !client.borrow().is_done() {
        // What breaks is asked again over another connection.
        let _ = talk(&client).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::future::pending().await
}

pub async fn within<T>(call: impl Future<Output = Result<T, capnp::Error>>) -> Result<T, capnp::Error> {
    let late = |_| capnp::Error::overloaded("no answer".to_owned());
    tokio::time::timeout(ANSWER_WITHIN, call).await.map_err(late)?
}

/// A pool, over a connection that lasts until the second value is dropped, or comes true when the connection has broken.
pub async fn connect() -> Result<(pool::Client, oneshot::Receiver<()>), capnp::Error> {
    let connecting = async { Ok(turmoil::net::TcpStream::connect((HOST, PORT)).await?) };
    let stream = within(connecting).await?;
    let connection = Connection { stream: Box::pin(stream), peer: Peer::Local { uid: 0 } };
    let (door, link) = connection::dialled::<client_door::Client>(connection, time::now);
    let (mut breaks, broken) = oneshot::channel();
    tokio::task::spawn_local(async move {
        // However it ends, whoever waits for it is told.
        let _ = link.run(breaks.closed()).await;
    });
    let mut hello = door.hello_request();
    wire::hello::write(&wire::hello::Hello::ours(), hello.get().init_hello());
    let pool = within(hello.send().promise).await?.get()?.get_pool()?;
    Ok((pool, broken))
}

/// Asks over one connection, until that breaks or nothing is left to be asked.
async fn talk(client: &Shared) -> Result<(), capnp::Error> {
    let (pool, _broken) = connect().await?;
    while !client.borrow().is_done() {
        let pause = {
            let mut client = client.borrow_mut();
            let gap = match client.patience {
                Patience::Waits => u64::try_from(client.plan.ask_gap.as_millis()).unwrap(),
                Patience::GivesUp => 100,
            };
            client.random.millis(0, 2 * gap)
        };
        tokio::time::sleep(pause).await;
        let submits = {
            let mut client = client.borrow_mut();
            let open = client.jobs.iter().filter(|known| !known.is_over).count();
            let wants = client.patience == Patience::Waits && client.jobs.len() < JOBS;
            let may = wants && open < client.plan.tastes.jobs_at_once;
            client.asking.is_some() || client.jobs.is_empty() || (may && client.random.chance(500))
        };
        if submits { submit(client, &pool).await? } else { look(client, &pool).await? }
    }
    Ok(())
}

async fn submit(client: &Shared, pool: &pool::Client) -> Result<(), capnp::Error> {
    let (id, spec) = {
        let mut client = client.borrow_mut();
        let Client { random, plan, asking, .. } = &mut *client;
        let fresh = || {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&random.number().to_le_bytes());
            (RequestId(id), some_spec(random, plan.run_ms, plan.tastes))
        };
        asking.get_or_insert_with(fresh).clone()
    };
    let witness = Arc::clone(&client.borrow().witness);
    let owner = facts::user();
    tell(&witness, Happened::Submitting { owner: owner.clone(), request: id, spec: Arc::clone(&spec) });
    let mut request = pool.submit_request();
    request.get().set_request(&id.0);
    wire::job::write(&spec, request.get().init_spec());
    let answer = within(request.send().promise).await?;
    let answer = answer.get()?;
    if answer.has_refused() {
        let refused = wire::refusal::read(answer.get_refused()?)?;
        return Err(capnp::Error::failed(format!("a submit is refused: {}", refused.message)));
    }
    let job = JobId(answer.get_job());
    tell(&witness, Happened::Accepted { owner, request: id, job });
    let mut client = client.borrow_mut();
    client.asking = None;
    if client.jobs.iter().all(|known| known.job != job) {
        client.jobs.push(Known { job, spec, is_over: false });
    }
    Ok(())
}

/// Looks at a job that has not ended, and perhaps cancels it.
async fn look(client: &Shared, pool: &pool::Client) -> Result<(), capnp::Error> {
    let (at, id, cancels) = {
        let mut client = client.borrow_mut();
        let open: Vec<usize> =
            client.jobs.iter().enumerate().filter(|(_, known)| !known.is_over).map(|(at, _)| at).collect();
        let all: Vec<usize> = (0..client.jobs.len()).collect();
        let from = if open.is_empty() { &all } else { &open };
        let at = from[client.random.index(from.len())];
        let per_mille = match client.patience {
            Patience::GivesUp => 1000,
            Patience::Waits if is_endless(&client.jobs[at].spec) => 300,
            Patience::Waits => client.plan.tastes.cancels / 20,
        };
        (at, client.jobs[at].job, client.random.chance(per_mille))
    };
    let mut request = pool.job_request();
    request.get().set_id(id.0);
    let answer = within(request.send().promise).await?;
    let (witness, observer) = (Arc::clone(&client.borrow().witness), client.borrow().observer);
    if answer.get()?.has_refused() {
        tell(&witness, Happened::Unknown { job: id });
        return Err(capnp::Error::failed("an acknowledged job is not known".to_owned()));
    }
    let job: job::Client = answer.get()?.get_handle()?;
    if cancels {
        let mut request = job.cancel_request();
        request.get().set_how(types_capnp::Cancel::Terminate);
        within(request.send().promise).await?;
        let ranges = client.borrow().jobs[at].tasks();
        tell(&witness, Happened::CancelAccepted { job: id, ranges });
    }
    let mut request = job.tasks_request();
    request.get().set_from_start(true);
    request.get().set_any_state(true);
    request.get().set_limit(1000);
    let answer = within(request.send().promise).await?;
    for task in answer.get()?.get_tasks()? {
        let task = wire::task::read_info(task)?;
        let sight = TaskSight {
            task: TaskId { job: id, index: task.index },
            attempt: task.attempt,
            state: task.state,
            outcome: task.end.map(|end| end.outcome),
        };
        tell(&witness, Happened::TaskSeen { observer, sight });
    }
    let answer = within(job.info_request().send().promise).await?;
    let info = wire::job::read_info(answer.get()?.get_info()?)?;
    tell(&witness, Happened::JobSeen { observer, job: id, counts: info.counts });
    client.borrow_mut().jobs[at].is_over |= info.ended.is_some();
    Ok(())
}
