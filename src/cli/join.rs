//! `worker join` and `worker doctor`: the command line of an agent, and which pool it is for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::install::text_of;
use super::log::{self, LogTo};
use super::serve::{HANDOVER, LOOK_AGAIN, find_root, worker_log};
use super::{Global, StateArgs, block_on, internal, timing};
use crate::client::Manner;
use crate::client::commands::{context, tell_done};
use crate::client::duration;
use crate::client::error::Failure;
use crate::core::checkup::Check;
use crate::core::id::Name;
use crate::core::label::labels_of_worker;
use crate::core::limits;
use crate::core::membership::{SubmitterTrust, Tenure};
use crate::core::refusal::{Refusal, os_words};
use crate::net::address::{self, BadAddress};
use crate::net::dial::{self, Route};
use crate::process::run_as::JobUser;
use crate::process::{clock, detach, facts, first, title};
use crate::store::place::{self, Endpoint, StateRoot};
use crate::worker::{self, DoctorOptions, Ending, JoinError, JoinMode, JoinOptions, PoolAddress, RootJobs};

/// `worker join`.
#[derive(Args, Debug)]
pub(super) struct JoinArgs {
    #[command(flatten)]
    pub(super) place: StateArgs,
    /// The pool, as HOST:PORT; one of this user on this machine also by its state directory
    #[arg(required_unless_present = "local_state", value_parser = place_of_pool)]
    pool: Option<String>,
    /// A worker's token: the word itself, - for standard input, or @FILE
    #[arg(long, env = "CLUSTERCTL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The worker's name; its host's if not given
    #[arg(long)]
    name: Option<Name>,
    /// What it can run at a time; as many as it has processors if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SLOTS_MAX)))]
    slots: Option<u32>,
    /// A label (may be repeated)
    #[arg(long, value_name = "K=V")]
    label: Vec<String>,
    /// Where jobs' directories are made
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Take everybody's jobs, although they could read the state of a pool of this user on this machine
    #[arg(long)]
    trust_submitters: bool,
    /// Run jobs as this user, if root starts it
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// Run jobs as root
    #[arg(long, conflicts_with = "run_as")]
    allow_root: bool,
    /// After SIGTERM, end what still runs, so that all is over within this; in a container 8s
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    stop_within: Option<Duration>,
    /// Comes once, as a container does: the pool sees to it that its name is free, and forgets it 10 minutes after it left
    #[arg(long)]
    ephemeral: bool,
    #[arg(long, hide = true, value_name = "DIR")]
    local_state: Option<PathBuf>,
}

/// `worker doctor`.
#[derive(Args, Debug)]
pub(super) struct WorkerDoctorArgs {
    #[command(flatten)]
    pub(super) place: StateArgs,
    /// The pool, as HOST:PORT; those that were joined if not given
    #[arg(value_parser = place_of_pool)]
    pool: Option<String>,
    /// Where jobs' directories would be made
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// What can be done with workers' keys.
#[derive(Subcommand, Debug)]
pub(super) enum WorkerIdentityAction {
    /// Make another key, and have the pool take it for the present one; a worker that runs goes on
    #[command(
        after_help = "Examples:\n  clusterctl worker identity renew\n  clusterctl worker identity renew --name n1"
    )]
    Renew {
        #[command(flatten)]
        place: StateArgs,
        /// Of this worker alone, of those that this user has on this machine
        #[arg(long)]
        name: Option<Name>,
    },
}

impl JoinArgs {
    /// A variable that is empty says nothing.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref().filter(|token| !token.is_empty())
    }

    /// The worker's name, if it was given.
    pub(super) fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    async fn address(&self, root: &StateRoot) -> PoolAddress {
        match (&self.local_state, &self.pool) {
            (Some(state), _) => PoolAddress::Local(state.clone()),
            (None, Some(address)) => find_pool(root, address, self.token().is_some()).await,
            (None, None) => unreachable!("one of the two is required"),
        }
    }

    fn job_user(&self) -> Result<Option<JobUser>, Failure> {
        let found = self.run_as.as_deref().map(JobUser::find).transpose();
        Ok(found.map_err(|error| Failure::new("usage", format!("{error:#}")))?.flatten())
    }

    fn trust(&self) -> SubmitterTrust {
        if self.trust_submitters { SubmitterTrust::Everybody } else { SubmitterTrust::OwnerOnly }
    }

    fn root_jobs(&self) -> RootJobs {
        if self.allow_root { RootJobs::Allowed } else { RootJobs::Refused }
    }

    async fn options(&self, global: &Global, root: &StateRoot) -> Result<JoinOptions, Failure> {
        Ok(JoinOptions {
            pool: self.address(root).await,
            token: self.token().map(context::read_token).transpose()?,
            name: self.name.clone(),
            slots: self.slots.unwrap_or_else(facts::cpus),
            labels: labels_of_worker(&self.label)?,
            work_directory: usable(work_directory(self.work_dir.as_ref())?)?,
            state: global.state.clone(),
            trust: self.trust(),
            tenure: if self.ephemeral { Tenure::Ephemeral } else { Tenure::Lasting },
            run_as: self.job_user()?,
            root: self.root_jobs(),
            mode: if self.local_state.is_some() { JoinMode::Background } else { JoinMode::Foreground },
            stop_within: self.stop_within.or_else(|| first::is_first().then_some(timing().container_stop)),
            timing: timing(),
            clock: clock::now,
            proxies: global.proxies()?,
        })
    }

    /// What a service finds its pool by, whether that runs or not: an address, or a state directory of this machine.
    /// And the worker's name, as far as that is known before it is let in. Refuses what would not start.
    pub(super) async fn place_and_name(&self, global: &Global) -> Result<(String, String), Failure> {
        if self.local_state.is_some() {
            return Err(Failure::new("usage", "a private pool starts its own worker"));
        }
        if self.ephemeral {
            return Err(Failure::new("usage", "a service comes again, so its worker cannot be --ephemeral"));
        }
        labels_of_worker(&self.label)?;
        let jobs_uid = self.job_user()?.map_or_else(facts::uid, |user| user.credentials.uid);
        let pool = self.address(&find_root(global)?).await;
        worker::check_root(&pool, self.trust(), jobs_uid, self.root_jobs()).map_err(failure)?;
        let pool = match pool {
            PoolAddress::Network(address) => address,
            PoolAddress::Local(state) => text_of(state)?,
        };
        let name = self.name.clone().unwrap_or_else(|| Name::from_any(&facts::hostname()));
        Ok((pool, name.to_string()))
    }

    /// Has the worker let in; with the name that its directory has from now on.
    pub(super) async fn admit(&self, global: &Global) -> Result<String, Failure> {
        let options = self.options(global, &find_root(global)?).await?;
        worker::admit(options).await.map_err(failure)
    }

    /// What a service is started with.
    pub(super) fn unit_words(&self, pool: &str, name: &str) -> Result<Vec<String>, Failure> {
        let work_directory = self.work_dir.as_ref().map(|path| work_directory(Some(path)));
        let options = [
            ("--name", Some(name.to_owned())),
            ("--slots", self.slots.map(|slots| slots.to_string())),
            ("--work-dir", work_directory.transpose()?.map(text_of).transpose()?),
            ("--run-as", self.run_as.clone()),
            ("--stop-within", self.stop_within.map(|time| format!("{}ms", time.as_millis()))),
        ];
        let labels = self.label.iter().map(|label| ("--label", Some(label.clone())));
        let given = options.into_iter().chain(labels);
        let given = given.filter_map(|(option, value)| Some([option.to_owned(), value?])).flatten();
        let switches = [("--trust-submitters", self.trust_submitters), ("--allow-root", self.allow_root)];
        let switches = switches.into_iter().filter(|(_, given)| *given).map(|(switch, _)| switch.to_owned());
        let words = ["worker", "join", pool].map(str::to_owned);
        Ok(words.into_iter().chain(given).chain(switches).collect())
    }
}

/// Joins a pool, and works for it until it is drained, stopped or refused.
pub(super) fn join(global: &Global, args: &JoinArgs) -> Result<u8, Failure> {
    wipe_token(args.token());
    let (to, default) = match &args.local_state {
        Some(state) => {
            // Before the runtime opens anything.
            detach::detach().map_err(|error| Failure::new("internal", error))?;
            (LogTo::File(worker_log(state)), "info")
        }
        None => (LogTo::Stderr, "info"),
    };
    log::start(global.log_format, default, to);
    block_on(work(global, args))
}

/// A token that was given as itself, and not as where it is.
pub(super) fn wipe_token(given: Option<&str>) {
    if let Some(token) = given.filter(|text| text.trim_start().starts_with("CCT1-")) {
        title::wipe(token);
    }
}

async fn work(global: &Global, args: &JoinArgs) -> Result<u8, Failure> {
    let root = find_root(global)?;
    let background = args.local_state.is_some();
    let options = args.options(global, &root).await?;
    let patience = Instant::now() + HANDOVER;
    let ended = loop {
        match worker::join(options.clone()).await {
            // The agent of the pool's life before may just be told to go.
            Err(JoinError::Refused(refused))
                if background && refused.code == "worker-running" && Instant::now() < patience =>
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            ended => break ended,
        }
    };
    match ended {
        Ok(Ending::Drained | Ending::Left) => Ok(0),
        Err(JoinError::Refused(refused)) if background && refused.code == "worker-running" => Ok(0),
        Err(error) => Err(failure(error)),
    }
}

/// What keeps a worker here from working, or could.
pub(super) async fn doctor(global: &Global, args: &WorkerDoctorArgs) -> Result<Vec<Check>, Failure> {
    let root = find_root(global)?;
    let pool = match &args.pool {
        Some(address) => Some(find_pool(&root, address, false).await),
        None => None,
    };
    let work_directory = work_directory(args.work_dir.as_ref())?;
    let route = Route { timing: timing(), proxies: global.proxies()? };
    Ok(worker::examine(&DoctorOptions { root, pool, work_directory, route }).await)
}

/// Renews keys of this user's workers.
pub(super) async fn renew(
    global: &Global,
    action: &WorkerIdentityAction,
    manner: Manner,
) -> Result<u8, Failure> {
    let WorkerIdentityAction::Renew { place, name } = action;
    let global = place.over(global);
    let route = Route { timing: timing(), proxies: global.proxies()? };
    let renewed = worker::renew(&find_root(&global)?, name.as_ref().map(Name::as_str), &route).await;
    for worker::Renewed { name, pool, key } in renewed.map_err(failure)? {
        let sentence = format!("worker \"{name}\" of pool \"{pool}\" has another key: {key}");
        let document = serde_json::json!({ "worker": name, "pool": pool, "key": key.to_string() });
        tell_done(manner, &sentence, &key.to_string(), document);
    }
    Ok(0)
}

fn failure(error: JoinError) -> Failure {
    match error {
        JoinError::Refused(refused) => refused.into(),
        JoinError::OtherPool { address, expected, presented } => {
            let refused =
                Refusal::new("key-mismatch", format!("{address} is not the pool this token is for"));
            refused.fact("expected", expected).fact("presented", presented).into()
        }
        JoinError::Other(error) => internal(error),
    }
}

fn work_directory(given: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(given.cloned().unwrap_or_else(std::env::temp_dir))?)
}

/// A directory that jobs' own can be made in, as far as one sees from here.
fn usable(directory: PathBuf) -> Result<PathBuf, Failure> {
    let reason = match std::fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => return Ok(directory),
        Ok(_) => "it is no directory".to_owned(),
        Err(error) => os_words(&error),
    };
    let text = format!("jobs cannot have their directories in {}: {reason}", directory.display());
    Err(Failure::new("work-dir", text).hint("--work-dir DIR"))
}

/// An address, or a pool's state directory.
fn place_of_pool(text: &str) -> Result<String, BadAddress> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { address::dialled(text) }
}

/// `localhost:PORT` is a pool of this user's own, if one listens there: then no token is needed.
/// So is one whose state directory is named, whether it runs yet or not.
async fn find_pool(root: &StateRoot, address: &str, has_token: bool) -> PoolAddress {
    if address.starts_with('/') {
        return PoolAddress::Local(address.into());
    }
    if has_token || !matches!(address::host(address), "localhost" | "127.0.0.1" | "[::1]") {
        return PoolAddress::Network(address.to_owned());
    }
    for name in root.pools() {
        let state = root.pool(&name);
        let listens = Endpoint::read(&state).and_then(|endpoint| endpoint.listen);
        let same_port = listens.is_some_and(|listens| address::port(&listens) == address::port(address));
        if same_port && dial::dial_local(&place::socket_path(&state)).await.is_ok() {
            return PoolAddress::Local(state);
        }
    }
    PoolAddress::Network(address.to_owned())
}
