//! `pool serve`: a pool in the foreground, with the lines that let others in, and the private pool in the background.

use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use super::log::{self, LogTo};
use super::{Global, StateArgs, block_on, timing};
use crate::client::commands::{context, token};
use crate::client::connection::{Session, Target};
use crate::client::error::Failure;
use crate::client::{Manner, private_pool, repl};
use crate::core::access::{Role, TokenWish};
use crate::core::id::Name;
use crate::core::label::Labels;
use crate::core::limits;
use crate::core::refusal::os_words;
use crate::core::size::size;
use crate::net::address::{self, PORT};
use crate::pool::{Mode, Opened, ServeOptions, Serving};
use crate::process::{detach, facts, listeners};
use crate::say::{greet, say};
use crate::schema::pool_capnp::StopReason;
use crate::store::StoreError;
use crate::store::place::{self, Endpoint, StateRoot, Surroundings};

/// A process that leaves a state directory is waited for so long.
pub(super) const HANDOVER: Duration = Duration::from_secs(10);
/// It answers within this time, if it can.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often to look whether it has left.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A limit below this is a mistake: most likely its unit is missing.
const SIZE_BYTES_MIN: u64 = 1 << 20;
/// The lines for others hold tokens that count so long.
const READY_TOKENS: Duration = Duration::from_secs(3600);
/// What kills a private pool's worker may do so again.
const WORKER_AGAIN: Duration = Duration::from_secs(1);

/// `pool serve`.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) place: StateArgs,
    /// A pool of its own; without a name the private pool is opened to the network
    #[arg(long)]
    name: Option<Name>,
    /// Where to listen, as HOST:PORT
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["host", "port"], value_parser = address::listened)]
    listen: Option<String>,
    /// Which address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    host: String,
    /// Which port to listen on
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// What the lines for others say instead; without a port, the one that is listened on
    #[arg(long, value_name = "HOST:PORT", value_parser = address::advertised)]
    advertise: Option<String>,
    /// Output that is kept at most, as 20G; 10G if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    output_limit: Option<u64>,
    /// Tasks of one owner that may wait or run, at most; a million if not given
    #[arg(long, value_name = "N")]
    owner_tasks: Option<u64>,
    /// Memory for what peers have not read or finished with; beyond it the one with most is cut; 256M if not
    /// given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    peers_memory: Option<u64>,
    /// Serve and prompt in one terminal
    #[arg(long)]
    repl: bool,
    #[arg(long, hide = true)]
    background: bool,
}

impl ServeArgs {
    /// The pool's own name, if it was given.
    pub(super) fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// What a service is started with.
    pub(super) fn unit_words(&self) -> Result<Vec<String>, Failure> {
        if self.repl || self.background {
            return Err(Failure::new("usage", "a service has no terminal: --repl is for pool serve"));
        }
        let options = [
            ("--name", self.name.as_ref().map(ToString::to_string)),
            ("--listen", Some(self.listening())),
            ("--advertise", self.advertise.clone()),
            ("--output-limit", self.output_limit.map(|bytes| bytes.to_string())),
            ("--owner-tasks", self.owner_tasks.map(|tasks| tasks.to_string())),
            ("--peers-memory", self.peers_memory.map(|bytes| bytes.to_string())),
        ];
        let given = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?]));
        Ok(["pool", "serve"].map(str::to_owned).into_iter().chain(given.flatten()).collect())
    }

    /// Whether there is such an address to listen on: a unit with another would never start.
    pub(super) fn check_listening(&self) -> Result<(), Failure> {
        let listening = self.listening();
        let found = listening.to_socket_addrs().map_err(|error| os_words(&error));
        let reason = match found.map(|mut addresses| addresses.next()) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => "it has no address".to_owned(),
            Err(reason) => reason,
        };
        Err(Failure::new("usage", format!("cannot listen on {listening}: {reason}"))
            .hint("--listen HOST:PORT, as 0.0.0.0:7700"))
    }

    fn listening(&self) -> String {
        self.listen.clone().unwrap_or_else(|| address::joined(&self.host, self.port))
    }
}

/// What came of taking a pool's state.
enum Taken {
    /// It is ours.
    Opened(Box<Opened>),
    /// Another process serves it, which is as good.
    Served,
}

/// Serves a pool until somebody ends it.
pub(super) fn serve(global: &Global, args: &ServeArgs, manner: Manner) -> Result<u8, Failure> {
    let root = find_root(global)?;
    if global.proxy.is_some() {
        return Err(Failure::new("usage", "a pool dials nobody: --proxy is for those who come to it"));
    }
    if args.background {
        detach::detach().map_err(|error| Failure::new("internal", error))?;
        let log = private_pool::state_directory(&root).join(private_pool::LOG);
        log::start(global.log_format, "info", LogTo::File(log));
    } else {
        // Beside a prompt only what somebody must hear.
        log::start(global.log_format, if args.repl { "warn" } else { "info" }, LogTo::Stderr);
    }
    let listen = args.listening();
    let options = ServeOptions {
        name: args.name.clone(),
        listen: (!args.background).then_some(listen),
        advertise: args.advertise.clone(),
        state: global.state.clone(),
        output_limit: args.output_limit.unwrap_or(limits::OUTPUT_PER_POOL_BYTES),
        owner_tasks: args.owner_tasks.unwrap_or(limits::QUEUE_TASKS_PER_OWNER_MAX),
        peers_memory: args
            .peers_memory
            .map_or(limits::PEERS_BYTES_MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        mode: match (args.background, args.repl) {
            (true, _) => Mode::Background,
            (false, true) => Mode::Prompting,
            (false, false) => Mode::Foreground,
        },
        timing: timing(),
    };
    let opened = match take(&options, &root)? {
        Taken::Opened(opened) => *opened,
        Taken::Served => {
            detach::ready().map_err(|error| Failure::new("internal", error))?;
            return Ok(0);
        }
    };
    let serving = opened.serving();
    if args.name.is_none() {
        start_local_worker(&serving)?;
    }
    if args.background {
        detach::ready().map_err(|error| Failure::new("internal", error))?;
        return opened.serve().map(|()| 0).map_err(|error| stopped(&error, &serving.state));
    }
    if let Some(name) = &args.name {
        match context::remember_local(name, serving.state.clone()) {
            Ok(None) => {}
            Ok(Some(before)) => {
                say!("\"{name}\" means this pool now; before, the one in {}", before.display());
            }
            // It serves nevertheless.
            Err(failure) => {
                let hint = failure.refusal.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                say!("warning: {}{hint}", failure.refusal.message);
            }
        }
    }
    let served = std::thread::spawn(move || opened.serve());
    block_on(greetings(&root, &serving, args))?;
    if args.repl {
        let target = Target::Local(serving.name.clone(), serving.state.clone());
        block_on(repl::run(Session::of(target, root), manner))?;
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM)
            .map_err(|error| Failure::new("internal", error))?;
    }
    let ended = served.join().map_err(|_| Failure::new("internal", "the pool panicked"))?;
    ended.map(|()| 0).map_err(|error| stopped(&error, &serving.state))
}

/// A pool that stopped by itself. What it said is durable; of what it could not make durable nobody was told.
fn stopped(error: &anyhow::Error, state: &Path) -> Failure {
    let is_disk = match error.downcast_ref() {
        Some(StoreError::Database(_) | StoreError::Io(_) | StoreError::At(..)) => true,
        Some(StoreError::Held { .. } | StoreError::Superseded(_)) => false,
        Some(StoreError::Damaged(_) | StoreError::TooNew(_)) => false,
        None => error.is::<std::io::Error>(),
    };
    let failure = Failure::new("pool-failed", format!("{error:#}")).fact("state", state.display());
    if !is_disk {
        return failure;
    }
    failure.hint("look at the disk, then start the pool again: nothing that it acknowledged is lost")
}

pub(super) fn find_root(global: &Global) -> Result<StateRoot, Failure> {
    StateRoot::find(&Surroundings::of_process(global.state.clone()))
        .map_err(|error| Failure::new("no-home", error).hint("--state DIR"))
}

/// Takes a pool's state. Who has it already is, by `pool serve`, asked to leave if it is the private pool's background
/// process; by such a process, waited for until it answers or is gone.
fn take(options: &ServeOptions, root: &StateRoot) -> Result<Taken, Failure> {
    let state = private_pool::state_directory(root);
    let deadline = Instant::now() + HANDOVER;
    loop {
        let failure = match crate::pool::open(options.clone()) {
            Ok(opened) => return Ok(Taken::Opened(Box::new(opened))),
            Err(error) => open_failure(&error, options, root),
        };
        if failure.refusal.code != "db-locked" || options.name.is_some() || Instant::now() > deadline {
            return Err(failure);
        }
        match options.mode {
            Mode::Background if UnixStream::connect(place::socket_path(&state)).is_ok() => {
                return Ok(Taken::Served);
            }
            Mode::Background => {}
            // A client may have started it again meanwhile, so it is asked each time.
            Mode::Foreground | Mode::Prompting => {
                if !ask_to_leave(&state, root)? {
                    return Err(failure);
                }
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Asks the private pool's background process to leave; `false` if the state is held by somebody who is not asked.
fn ask_to_leave(state: &Path, root: &StateRoot) -> Result<bool, Failure> {
    // One that listens on the network was started by a person, who is not to be pushed aside.
    if Endpoint::read(state).is_some_and(|endpoint| endpoint.listen.is_some()) {
        return Ok(false);
    }
    if UnixStream::connect(place::socket_path(state)).is_err() {
        // It comes, or goes.
        return Ok(true);
    }
    let target = Target::Local("local".to_owned(), state.to_owned());
    block_on(async move {
        let mut session = Session::of(target, root.clone());
        let asking = async {
            let admin = session.admin().await?;
            let mut request = admin.stop_request();
            request.get().set_why(StopReason::Handover);
            request.send().promise.await.map_err(Failure::from)
        };
        // Whatever becomes of it, the lock tells.
        let _ = tokio::time::timeout(ANSWER_WITHIN, asking).await;
        Ok(true)
    })
}

fn open_failure(error: &anyhow::Error, options: &ServeOptions, root: &StateRoot) -> Failure {
    if let Some(StoreError::Held { .. }) = error.downcast_ref() {
        return Failure::new("db-locked", error);
    }
    let io = error.root_cause().downcast_ref::<std::io::Error>();
    if let Some(io) = io.filter(|io| io.kind() == std::io::ErrorKind::AddrInUse) {
        let listen = options.listen.as_deref().unwrap_or_default();
        let port = address::port(listen).and_then(|port| port.parse().ok());
        let holder = port.and_then(listeners::holder);
        let by = holder.map_or(String::new(), |(pid, name)| format!(" (by pid {pid}, {name})"));
        return Failure::new("port-in-use", format!("{error}: {}{by}", os_words(io)))
            .hint("--listen HOST:PORT");
    }
    let name = options.name.clone().unwrap_or_else(place::private_pool_name);
    let state = root.pool(&name);
    // Whoever opens a file of the state says only what the system said.
    let words = match io.filter(|_| error.chain().count() == 1) {
        Some(io) => format!("the store cannot be read or written: {}", os_words(io)),
        None => format!("{error:#}"),
    };
    Failure::new("pool-failed", words).fact("state", state.display())
}

/// A private pool's own worker: an agent in the background, found again by its lock.
fn start_local_worker(serving: &Serving) -> Result<(), Failure> {
    let state = serving.state.clone();
    let mut agent = spawn_local_worker(&state)?;
    std::thread::Builder::new().name("local worker".into()).spawn(move || {
        // It may end before us: then nobody else would reap it. One that was killed is missed; one that was drained or
        // removed is not.
        while agent.wait().is_ok_and(|ended| ended.signal().is_some()) {
            tracing::warn!("this pool's own worker was killed");
            std::thread::sleep(WORKER_AGAIN);
            match spawn_local_worker(&state) {
                Ok(another) => agent = another,
                Err(failure) => {
                    return tracing::warn!("it cannot be started again: {}", failure.refusal.message);
                }
            }
        }
    })?;
    Ok(())
}

fn spawn_local_worker(state: &Path) -> Result<Child, Failure> {
    let root = state.parent().unwrap_or(state);
    let log = worker_log(state);
    let agent = Command::new("/proc/self/exe")
        .arg0("clusterctl")
        .args(["worker", "join", "--name", "local", "--local-state"])
        .arg(state)
        .arg("--state")
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log::open(&log)?)
        .spawn()?;
    Ok(agent)
}

/// What a person needs to let others in.
async fn greetings(root: &StateRoot, serving: &Serving, args: &ServeArgs) -> Result<(), Failure> {
    let listening = serving.listening.clone().unwrap_or_default();
    greet!("pool \"{}\" serving on {listening} (TLS, key {:.4})", serving.name, serving.fingerprint);
    greet!("  state     {}", serving.state.display());
    if std::io::stdout().is_terminal() {
        let place = reached_at(args.advertise.as_deref(), &listening, &facts::hostname());
        let target = Target::Local(serving.name.clone(), serving.state.clone());
        let mut session = Session::of(target, root.clone());
        let wish = |role, uses| TokenWish {
            role,
            name: None,
            owner: None,
            labels: Labels::new(),
            uses,
            ttl: READY_TOKENS,
        };
        let (worker, _) = token::create(&mut session, &wish(Role::Worker, None)).await?;
        let (client, _) = token::create(&mut session, &wish(Role::Client, Some(1))).await?;
        let name = &serving.name;
        greet!("  workers   clusterctl worker join {place} --token {worker}     (any number, for 1 h)");
        greet!("  people    clusterctl context add {name} {place} --token {client}     (once, for 1 h)");
        if args.name.is_none() || context::means(name, &serving.state) {
            greet!("  this user on this machine is already configured; try: clusterctl");
        }
    }
    greet!(
        "  jobs run on the workers as whoever started them, with no isolation: who may submit owns those accounts"
    );
    Ok(())
}

/// Where others reach a pool that listens there: as somebody says, else by its host's name if it listens on every
/// address, else where it listens.
fn reached_at(advertised: Option<&str>, listening: &str, hostname: &str) -> String {
    let listening: Option<SocketAddr> = listening.parse().ok();
    let host = match (advertised, listening) {
        (Some(advertised), _) => advertised,
        (None, Some(address)) if !address.ip().is_unspecified() => return address.to_string(),
        (None, _) => hostname,
    };
    address::with_port(host, listening.map_or(PORT, |address| address.port()))
}

/// Reads `20G`, `512M` and the like, for what is measured in megabytes at least.
fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is no size; write 512M or 20G");
    let bytes = bytes_of(text).ok_or_else(bad)?;
    if bytes >= SIZE_BYTES_MIN {
        return Ok(bytes);
    }
    Err(format!("\"{text}\" is {} and at least 1M has to be; units are K, M, G and T, as 20G", size(bytes)))
}

fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// The log of a private pool's own worker.
pub(super) fn worker_log(state: &Path) -> PathBuf {
    state.join("worker.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_an_address_that_is_listened_on() {
        assert_eq!(reached_at(None, "0.0.0.0:7700", "head"), "head:7700");
        assert_eq!(reached_at(None, "[::]:7700", "head"), "head:7700");
        assert_eq!(reached_at(None, "127.0.0.1:7711", "head"), "127.0.0.1:7711");
        assert_eq!(reached_at(None, "[2001:db8::1]:9", "head"), "[2001:db8::1]:9");
    }

    #[test]
    fn an_advertised_host_is_told_with_the_port_that_is_listened_on() {
        assert_eq!(reached_at(Some("head"), "0.0.0.0:7711", "h"), "head:7711");
        assert_eq!(reached_at(Some("head:9"), "0.0.0.0:7711", "h"), "head:9");
        assert_eq!(reached_at(Some("[::1]"), "[::]:7711", "h"), "[::1]:7711");
    }

    #[test]
    fn a_service_that_is_installed_for_an_ipv6_address_can_be_started() {
        let typed = |words: &[&str]| {
            let words: Vec<&str> = ["clusterctl"].into_iter().chain(words.iter().copied()).collect();
            match <crate::cli::Cli as clap::Parser>::try_parse_from(words).unwrap().command {
                Some(crate::cli::Command::Pool(crate::cli::PoolCommand::Serve(args))) => args,
                other => panic!("{other:?}"),
            }
        };
        let installed = typed(&["pool", "serve", "--host", "::"]).unit_words().unwrap();

        let words: Vec<&str> = installed.iter().map(String::as_str).collect();
        assert_eq!(typed(&words).listening(), "[::]:7700");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("20G"), Ok(20 << 30));
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("1048576"), Ok(1 << 20));
        let small = "\"3\" is 3 B and at least 1M has to be; units are K, M, G and T, as 20G";
        assert_eq!(parse_size("3"), Err(small.to_owned()));
        for bad in ["", "G", "1X", "-1", "99999999999T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
