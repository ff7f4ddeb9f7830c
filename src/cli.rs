//! The command line's root: global options, every verb, and which role each belongs to.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::commands::{
    cancel, context, jobs, logs, pool as pool_commands, run, token, wait, workers,
};
use crate::client::connection::{Session, Target};
use crate::client::error::Failure;
use crate::client::selector::Recent;
use crate::client::{Format, Manner, Verbosity, private_pool, render, repl};
use crate::core::access::{Role, TokenWish};
use crate::core::id::Name;
use crate::core::label::{Labels, parse_label};
use crate::core::limits;
use crate::core::membership::SubmitterTrust;
use crate::core::refusal::Refusal;
use crate::core::timing::Timing;
use crate::net::dial;
use crate::pool::{Mode, ServeOptions, Serving};
use crate::process::executor::ExecutorOptions;
use crate::process::{detach, executor, facts, keeper};
use crate::store::StoreError;
use crate::store::place::{self, Endpoint, StateRoot, Surroundings};
use crate::worker::{Ending, JoinError, JoinMode, JoinOptions, PoolAddress, RootJobs};

/// The port of a pool.
const PORT: u16 = 7700;

/// A cluster that you talk to like a shell.
///
/// Without a command it is a REPL: type bash, it runs on a free worker, output appears live, then the exit code.
/// Standard input that is no terminal is run as one job.
#[derive(Parser, Debug)]
#[command(name = "clusterctl", version = crate::build(), arg_required_else_help = false)]
#[command(
    after_help = "Examples:\n  clusterctl\n  clusterctl run 'echo hello from $(hostname)'\n  printf 'make\\nmake test\\n' | clusterctl"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    /// Run standard input line by line, as a person would type it
    #[arg(long)]
    repl: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Debug, Clone)]
struct Global {
    /// Which pool: a context, a pool of this user, or HOST:PORT of a context
    #[arg(long, global = true, env = "CLUSTERCTL_POOL", value_name = "NAME")]
    pool: Option<String>,
    /// Where state lies
    #[arg(long, global = true, env = "CLUSTERCTL_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// How results are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    output: Format,
    /// Say less: ids alone
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Write the log as JSON
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human, hide = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a script to its end
    #[command(
        after_help = "Examples:\n  clusterctl run 'echo hello'\n  clusterctl run --where 'gpu=a100 && !spot' ./train.sh\n  clusterctl run --array 1-200 './sim --seed $CLUSTERCTL_TASK' > results.txt"
    )]
    Run(run::RunArgs),
    /// Submit a script, print its id, and leave it alone
    #[command(after_help = "Examples:\n  id=$(clusterctl submit 'make test')\n  clusterctl logs -f $id")]
    Submit(run::RunArgs),
    /// List jobs
    #[command(
        after_help = "Examples:\n  clusterctl jobs\n  clusterctl jobs --all --state failed --output ndjson"
    )]
    Jobs(jobs::JobsArgs),
    /// Show a job in full
    #[command(after_help = "Examples:\n  clusterctl show 42\n  clusterctl show last --output json")]
    Show(jobs::ShowArgs),
    /// Say why a job is not running
    #[command(after_help = "Examples:\n  clusterctl why 42\n  clusterctl why 42.7")]
    Why(jobs::WhyArgs),
    /// Print the output of a job
    #[command(
        after_help = "Examples:\n  clusterctl logs 42\n  clusterctl logs -f last\n  clusterctl logs 13 --failed --tag"
    )]
    Logs(logs::LogsArgs),
    /// Wait until jobs have ended; exits as the job did
    #[command(after_help = "Examples:\n  clusterctl wait 42\n  clusterctl wait 40-45 --timeout 10m")]
    Wait(wait::WaitArgs),
    /// End jobs
    #[command(after_help = "Examples:\n  clusterctl cancel 42\n  clusterctl cancel --name nightly --yes")]
    Cancel(cancel::CancelArgs),
    /// Decide that an unknown attempt is lost
    #[command(after_help = "Examples:\n  clusterctl abandon 42\n  clusterctl abandon 42.7")]
    Abandon(cancel::AbandonArgs),
    /// Submit a job again
    #[command(after_help = "Examples:\n  clusterctl retry 42\n  clusterctl retry --failed-of 13")]
    Retry(cancel::RetryArgs),
    /// Who is there
    #[command(
        after_help = "Examples:\n  clusterctl workers\n  clusterctl workers show n1\n  clusterctl workers remove n2"
    )]
    Workers(workers::WorkersArgs),
    /// Serve a pool, or look after one
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Work for a pool
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Let workers and clients in
    #[command(subcommand)]
    Token(token::TokenAction),
    /// The pools that this user knows
    #[command(subcommand)]
    Context(context::ContextAction),
    #[command(hide = true)]
    Executor(ExecutorArgs),
    #[command(hide = true)]
    Keeper,
}

#[derive(Subcommand, Debug)]
enum PoolCommand {
    /// Serve a pool
    #[command(
        after_help = "Examples:\n  clusterctl pool serve --name lab\n  clusterctl pool serve --listen 127.0.0.1:7700 --repl"
    )]
    Serve(ServeArgs),
    /// Which pool this is, where its state lies, since when
    Status,
    /// End the pool; jobs at workers go on
    Stop,
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// A pool of its own; without a name the private pool is opened to the network
    #[arg(long)]
    name: Option<Name>,
    /// Where to listen, as HOST:PORT
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["host", "port"])]
    listen: Option<String>,
    /// Which address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    host: String,
    /// Which port to listen on
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// What the lines for others say instead
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Output that is kept at most, as 20G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    output_limit: Option<u64>,
    /// Serve and prompt in one terminal
    #[arg(long)]
    repl: bool,
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(Subcommand, Debug)]
enum WorkerCommand {
    /// Join a pool, and work for it
    #[command(
        after_help = "Examples:\n  clusterctl worker join head:7700 --token CCT1-w-…\n  clusterctl worker join localhost:7700 --slots 4 --label gpu=a100"
    )]
    Join(JoinArgs),
}

#[derive(Args, Debug)]
struct JoinArgs {
    /// The pool, as HOST:PORT
    #[arg(required_unless_present = "local_state")]
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
    /// Run jobs as root
    #[arg(long)]
    allow_root: bool,
    #[arg(long, hide = true, value_name = "DIR")]
    local_state: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct ExecutorArgs {
    #[arg(long)]
    directory: PathBuf,
    #[arg(long)]
    work_directory: PathBuf,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.global.output;
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(format);
            ExitCode::from(failure.exit)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let global = cli.global;
    let verbosity = if global.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let manner = Manner { format: global.output, verbosity };
    match cli.command {
        Some(Command::Keeper) => keeper::run(timing()).map(|()| 0).map_err(internal),
        Some(Command::Executor(args)) => {
            let ExecutorArgs { directory, work_directory } = args;
            executor::run(ExecutorOptions { directory, work_directory, timing: timing() })
                .map(|()| 0)
                .map_err(internal)
        }
        Some(Command::Pool(PoolCommand::Serve(args))) => serve(&global, &args, manner),
        Some(Command::Worker(WorkerCommand::Join(args))) => {
            if args.local_state.is_some() {
                // Before the runtime opens anything.
                detach::detach().map_err(|error| Failure::new("internal", error))?;
            }
            log(global.log_format, "info");
            block_on(join(&global, &args))
        }
        command => {
            log(global.log_format, "warn");
            block_on(client(global, command, cli.repl, manner))
        }
    }
}

async fn client(
    mut global: Global,
    mut command: Option<Command>,
    lines: bool,
    manner: Manner,
) -> Result<u8, Failure> {
    if let Some(Command::Jobs(args)) = &mut command {
        take_states(&mut global, args);
    }
    let surroundings = Surroundings::of_process(global.state.clone());
    if let Some(Command::Context(action)) = &command {
        let root = StateRoot::find(&surroundings).map_err(|error| Failure::new("no-home", error))?;
        return context::context(action, &root, manner).await;
    }
    let mut session = Session::new(global.pool.as_deref(), global.state)?;
    let session = &mut session;
    let none = Recent::default();
    match command {
        None => bare(session, lines, manner).await,
        Some(Command::Run(args)) => job_result(run::run(session, &args, manner).await),
        Some(Command::Submit(args)) => {
            run::run(session, &run::RunArgs { detach: true, ..args }, manner).await
        }
        Some(Command::Jobs(args)) => jobs::jobs(session, &args, manner).await,
        Some(Command::Show(args)) => jobs::show(session, &args, none, manner).await,
        Some(Command::Why(args)) => jobs::why(session, &args, none, manner).await,
        Some(Command::Logs(args)) => logs::logs(session, &args, none, manner).await,
        Some(Command::Wait(args)) => job_result(wait::wait(session, &args, none, manner).await),
        Some(Command::Cancel(args)) => cancel::cancel(session, &args, none, manner).await,
        Some(Command::Abandon(args)) => cancel::abandon(session, &args, none, manner).await,
        Some(Command::Retry(args)) => cancel::retry(session, &args, none, manner).await,
        Some(Command::Workers(args)) => workers::workers(session, &args, manner).await,
        Some(Command::Token(action)) => token::token(session, &action, manner).await,
        Some(Command::Pool(PoolCommand::Status)) => pool_commands::status(session, manner).await,
        Some(Command::Pool(PoolCommand::Stop)) => pool_commands::stop(session).await,
        Some(
            Command::Pool(PoolCommand::Serve(_))
            | Command::Worker(_)
            | Command::Context(_)
            | Command::Executor(_)
            | Command::Keeper,
        ) => unreachable!("these are no client's"),
    }
}

/// `jobs --state failed` means states of jobs; every other `--state` means where state lies.
fn take_states(global: &mut Global, args: &mut jobs::JobsArgs) {
    let words = global.state.as_ref().and_then(|state| state.to_str()).and_then(jobs::parse_states);
    if let Some(states) = words {
        args.states = states;
        global.state = std::env::var_os("CLUSTERCTL_STATE").map(PathBuf::from);
    }
}

/// Without a command: the REPL on a terminal, else standard input as one job.
async fn bare(session: &mut Session, lines: bool, manner: Manner) -> Result<u8, Failure> {
    let own = Session::of(session.target().clone(), session.root().clone());
    if lines {
        return repl::run_lines(own, manner).await;
    }
    if std::io::stdin().is_terminal() {
        return repl::run(own, manner).await;
    }
    let mut script = Vec::new();
    std::io::stdin().read_to_end(&mut script)?;
    if script.iter().all(u8::is_ascii_whitespace) {
        return Ok(0);
    }
    if *session.target() == Target::Private && manner.speaks() && std::io::stderr().is_terminal() {
        let slots = facts::cpus();
        render::dim(&format!(
            "private pool on this machine: {slots} slots · join others with: clusterctl pool serve"
        ));
    }
    let spec = run::JobArgs::default().spec(script, Vec::new())?;
    job_result(run::run_spec(session, &spec, false, manner).await)
}

/// Where the exit code is a job's, every failure of ours is 125, but for what was mistyped.
fn job_result(result: Result<u8, Failure>) -> Result<u8, Failure> {
    result.map_err(|failure| Failure { exit: if failure.exit == 2 { 2 } else { 125 }, ..failure })
}

fn serve(global: &Global, args: &ServeArgs, manner: Manner) -> Result<u8, Failure> {
    if args.background {
        detach::detach().map_err(|error| Failure::new("internal", error))?;
    }
    log(global.log_format, "info");
    let listen = args.listen.clone().unwrap_or_else(|| format!("{}:{}", args.host, args.port));
    let options = ServeOptions {
        name: args.name.clone(),
        listen: (!args.background).then_some(listen),
        advertise: args.advertise.clone(),
        state: global.state.clone(),
        output_limit: args.output_limit.unwrap_or(limits::OUTPUT_PER_POOL_BYTES),
        mode: if args.background { Mode::Background } else { Mode::Foreground },
        timing: timing(),
    };
    let opened = match open(&options) {
        Ok(opened) => opened,
        // Two clients started it at once: the other one's answers.
        Err(failure) if args.background && failure.refusal.code == "db-locked" => {
            detach::ready().map_err(|error| Failure::new("internal", error))?;
            return Ok(0);
        }
        Err(failure) => return Err(failure),
    };
    let serving = opened.serving();
    if args.background {
        start_local_worker(&serving)?;
        detach::ready().map_err(|error| Failure::new("internal", error))?;
        return opened.serve().map(|()| 0).map_err(internal);
    }
    if let Some(name) = &args.name {
        context::remember_local(name, serving.state.clone())?;
    } else {
        start_local_worker(&serving)?;
    }
    let served = std::thread::spawn(move || opened.serve());
    block_on(ready_lines(global, &serving, args))?;
    if args.repl {
        let state = serving.state.clone();
        block_on(async {
            let root = StateRoot::find(&Surroundings::of_process(global.state.clone()))
                .map_err(|error| Failure::new("no-home", error))?;
            repl::run(Session::of(Target::Local(serving.name.clone(), state), root), manner).await
        })?;
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM)
            .map_err(|error| Failure::new("internal", error))?;
    }
    served.join().map_err(|_| Failure::new("internal", "the pool panicked"))?.map(|()| 0).map_err(internal)
}

/// Takes a pool's state; the private pool's own background process makes room for `pool serve`.
fn open(options: &ServeOptions) -> Result<crate::pool::Opened, Failure> {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut asked = false;
    loop {
        match crate::pool::open(options.clone()) {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                let failure = open_failure(&error);
                let takes_over = options.mode == Mode::Foreground && options.name.is_none();
                if !takes_over || failure.refusal.code != "db-locked" || std::time::Instant::now() > deadline
                {
                    return Err(failure);
                }
                if !asked && !ask_background_to_leave(options)? {
                    return Err(failure);
                }
                asked = true;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Asks the private pool's background process to leave; whether there is one.
fn ask_background_to_leave(options: &ServeOptions) -> Result<bool, Failure> {
    let root = StateRoot::find(&Surroundings::of_process(options.state.clone()))
        .map_err(|error| Failure::new("no-home", error))?;
    let state = private_pool::state_directory(&root);
    // One that listens on the network was started by a person, who is not to be pushed aside.
    if Endpoint::read(&state).is_none_or(|endpoint| endpoint.listen.is_some()) {
        return Ok(false);
    }
    block_on(async move {
        let mut session = Session::of(Target::Local("local".to_owned(), state), root);
        let admin = session.admin().await?;
        let mut request = admin.stop_request();
        request.get().set_why(crate::schema::pool_capnp::StopReason::Handover);
        Ok(request.send().promise.await.is_ok())
    })
}

fn open_failure(error: &anyhow::Error) -> Failure {
    if let Some(StoreError::Held { .. }) = error.downcast_ref() {
        return Failure::new("db-locked", error);
    }
    let io = error.root_cause().downcast_ref::<std::io::Error>();
    if io.is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse) {
        return Failure::new("port-in-use", format!("{error}: address already in use"))
            .hint("--listen HOST:PORT");
    }
    Failure::new("pool-failed", format!("{error:#}"))
}

/// A private pool's own worker: an agent in the background, found again by its lock.
fn start_local_worker(serving: &Serving) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let root = serving.state.parent().unwrap_or(&serving.state);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(serving.state.join("worker.log"))?;
    let spawned = std::process::Command::new(program)
        .args(["worker", "join", "--name", "local", "--local-state"])
        .arg(&serving.state)
        .arg("--state")
        .arg(root)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .spawn();
    let mut agent = spawned?;
    // It may end before us: then nobody else would reap it.
    std::thread::Builder::new().name("reaper".into()).spawn(move || drop(agent.wait()))?;
    Ok(())
}

/// What a person needs to let others in.
async fn ready_lines(global: &Global, serving: &Serving, args: &ServeArgs) -> Result<(), Failure> {
    let listening = serving.listening.clone().unwrap_or_default();
    println!("pool \"{}\" serving on {listening} (TLS, key {:.4})", serving.name, serving.fingerprint);
    println!("  state     {}", serving.state.display());
    if std::io::stdout().is_terminal() {
        let port = listening.rsplit_once(':').map_or("7700", |(_, port)| port).to_owned();
        let place = args.advertise.clone().unwrap_or_else(|| format!("{}:{port}", facts::hostname()));
        let root = StateRoot::find(&Surroundings::of_process(global.state.clone()))
            .map_err(|error| Failure::new("no-home", error))?;
        let mut session = Session::of(Target::Local(serving.name.clone(), serving.state.clone()), root);
        let hour = Duration::from_secs(3600);
        let wish =
            |role, uses| TokenWish { role, name: None, owner: None, labels: Labels::new(), uses, ttl: hour };
        let (worker, _) = token::create(&mut session, &wish(Role::Worker, None)).await?;
        let (client, _) = token::create(&mut session, &wish(Role::Client, Some(1))).await?;
        println!("  workers   clusterctl worker join {place} --token {worker}     (any number, for 1 h)");
        println!(
            "  people    clusterctl context add {} {place} --token {client}     (once, for 1 h)",
            serving.name
        );
        println!("  this user on this machine is already configured; try: clusterctl");
    }
    println!(
        "  jobs run on the workers as whoever started them, with no isolation: who may submit owns those accounts"
    );
    Ok(())
}

async fn join(global: &Global, args: &JoinArgs) -> Result<u8, Failure> {
    let root = StateRoot::find(&Surroundings::of_process(global.state.clone()))
        .map_err(|error| Failure::new("no-home", error))?;
    let labels = args.label.iter().map(|text| parse_label(text).map_err(|bad| Failure::new("usage", bad)));
    let pool = match (&args.local_state, &args.pool) {
        (Some(state), _) => PoolAddress::Local(state.clone()),
        (None, Some(address)) => find_pool(&root, &with_port(address), args.token.is_some()).await,
        (None, None) => unreachable!("one of the two is required"),
    };
    let background = args.local_state.is_some();
    let options = JoinOptions {
        pool,
        token: args.token.as_deref().map(context::read_token).transpose()?,
        name: args.name.clone(),
        slots: args.slots.unwrap_or_else(facts::cpus),
        labels: labels.collect::<Result<_, _>>()?,
        work_directory: args.work_dir.clone().unwrap_or_else(std::env::temp_dir),
        state: global.state.clone(),
        trust: if args.trust_submitters { SubmitterTrust::Everybody } else { SubmitterTrust::OwnerOnly },
        root: if args.allow_root { RootJobs::Allowed } else { RootJobs::Refused },
        mode: if background { JoinMode::Background } else { JoinMode::Foreground },
        timing: timing(),
    };
    match crate::worker::join(options).await {
        Ok(Ending::Drained | Ending::Left) => Ok(0),
        Err(JoinError::Refused(refused)) if background && refused.code == "worker-running" => Ok(0),
        Err(JoinError::Refused(refused)) => Err(refused.into()),
        Err(JoinError::OtherPool { address, expected, presented }) => {
            let refused =
                Refusal::new("key-mismatch", format!("{address} is not the pool this token is for"));
            Err(refused.fact("expected", format!("sha256:{expected}…")).fact("presented", presented).into())
        }
        Err(JoinError::Other(error)) => Err(internal(error)),
    }
}

fn with_port(address: &str) -> String {
    if address.contains(':') { address.to_owned() } else { format!("{address}:{PORT}") }
}

/// `localhost:PORT` is a pool of this user's own, if one listens there: then no token is needed.
async fn find_pool(root: &StateRoot, address: &str, has_token: bool) -> PoolAddress {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    if has_token || !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        return PoolAddress::Network(address.to_owned());
    }
    for name in root.pools() {
        let state = root.pool(&name);
        let listens = Endpoint::read(&state).and_then(|endpoint| endpoint.listen);
        let same_port =
            listens.is_some_and(|listens| listens.rsplit_once(':').is_some_and(|(_, own)| own == port));
        if same_port && dial::dial_local(&place::socket_path(&state)).await.is_ok() {
            return PoolAddress::Local(state);
        }
    }
    PoolAddress::Network(address.to_owned())
}

/// Reads `20G`, `512M`, `1024`.
fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is no size; write 512M or 20G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// The durations of the promises; tests run all processes on a faster clock.
fn timing() -> Timing {
    let divisor = std::env::var("CLUSTERCTL_TIMING_DIVISOR").ok().and_then(|text| text.parse().ok());
    divisor.filter(|by| *by > 0).map_or_else(Timing::default, |by| Timing::default().scaled_down(by))
}

fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

fn internal(error: anyhow::Error) -> Failure {
    Failure::new("internal", format!("{error:#}"))
}

fn log(format: LogFormat, default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CLUSTERCTL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{default},rustyline=warn")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (pool serve --repl) keeps the first one's log.
    let _ = match format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
