//! The command line's root: global options, every verb, and which role each belongs to.

mod crash;
mod install;
mod join;
mod log;
mod serve;

use std::io::{IsTerminal, Read};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::install::{PoolInstallArgs, UninstallArgs, WorkerInstallArgs};
use self::join::{JoinArgs, WorkerDoctorArgs, WorkerIdentityAction};
use self::log::{LogFormat, LogTo};
use self::serve::ServeArgs;
use crate::client::commands::{
    self, audit, cancel, clients, context, doctor, identity, jobs, logs, pool as pool_commands, run, token,
    upkeep, wait, workers,
};
use crate::client::connection::Session;
use crate::client::error::Failure;
use crate::client::selector::Recent;
use crate::client::{Format, Manner, Verbosity, repl};
use crate::core::timing::Timing;
use crate::core::unit::Served;
use crate::net::proxy::Proxies;
use crate::process::executor::ExecutorOptions;
use crate::process::run_as::{Credentials, JobUser};
use crate::process::{executor, keeper, title};
use crate::store::place::{StateRoot, Surroundings};

/// The exit code where that is a job's, and there is none.
const NO_RESULT: u8 = 125;

/// A cluster that you talk to like a shell.
///
/// Without a command it is a REPL: type bash, it runs on a free worker, output appears live, then the exit code.
/// Standard input that is no terminal is run as one job.
#[derive(Parser, Debug)]
#[command(name = "clusterctl", version = crate::build(), arg_required_else_help = false)]
#[command(
    after_help = "Examples:\n  clusterctl\n  clusterctl run 'echo hello from $(hostname)'\n  printf 'cd /tmp\\nls\\n' | clusterctl"
)]
struct Cli {
    /// Run standard input line by line, as a person would type it
    #[arg(long)]
    repl: bool,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "For every command")]
struct Global {
    /// Which pool: a context, a pool of this user, or HOST:PORT of a context
    #[arg(long, global = true, env = "CLUSTERCTL_POOL", hide_env_values = true, value_name = "NAME")]
    pool: Option<String>,
    /// HTTP proxy to the pool; HTTPS_PROXY if not given, and NO_PROXY names what goes without
    #[arg(long, global = true, value_name = "URL")]
    proxy: Option<String>,
    /// Where state lies
    #[arg(long, env = "CLUSTERCTL_STATE", hide_env_values = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How results are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    output: Format,
    /// Say less: ids alone
    #[arg(short, long, global = true)]
    quiet: bool,
    /// How log lines are written (what is logged: CLUSTERCTL_LOG=debug)
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human)]
    log_format: LogFormat,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a script to its end
    #[command(
        after_help = "Examples:\n  clusterctl run 'echo hello'\n  clusterctl run --where 'gpu=a100 && !spot' -f train.sh\n  clusterctl run --array 1-200 '~/sim --seed $CLUSTERCTL_TASK' > results.txt"
    )]
    Run(run::RunArgs),
    /// Submit a script, print its id, and leave it alone
    #[command(
        after_help = "Examples:\n  id=$(clusterctl submit --cwd ~/src 'make test')\n  clusterctl logs -f $id"
    )]
    Submit(run::SubmitArgs),
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
    /// Who was let in by a token to submit jobs
    #[command(after_help = "Examples:\n  clusterctl clients\n  clusterctl clients revoke ann")]
    Clients(clients::ClientsArgs),
    /// Who you are to the pool
    Whoami,
    /// Who did what, and who was let in or not
    #[command(
        after_help = "Examples:\n  clusterctl audit\n  clusterctl audit --since 24h --output ndjson\n  clusterctl audit --verify"
    )]
    Audit(audit::AuditArgs),
    /// Serve a pool, or look after one
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Work for a pool
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Look at what keeps this user from working, or could, and say what to do about it
    #[command(after_help = "Examples:\n  clusterctl doctor\n  clusterctl doctor --pool lab --output json")]
    Doctor(StateArgs),
    /// Let workers and clients in
    #[command(subcommand)]
    Token(token::TokenAction),
    /// The pools that this user knows
    #[command(subcommand)]
    Context(context::ContextAction),
    /// The key by which pools know this user
    #[command(after_help = "Examples:\n  clusterctl identity\n  clusterctl identity renew")]
    Identity(identity::IdentityArgs),
    #[command(hide = true)]
    Executor(ExecutorArgs),
    #[command(hide = true)]
    Keeper(KeeperArgs),
}

#[derive(Subcommand, Debug)]
enum PoolCommand {
    /// Serve a pool
    #[command(
        after_help = "Examples:\n  clusterctl pool serve --name lab\n  clusterctl pool serve --listen 127.0.0.1:7700 --repl"
    )]
    Serve(ServeArgs),
    /// Which pool this is, where its state lies, since when
    Status(StateArgs),
    /// End the pool; jobs at workers go on
    Stop(StateArgs),
    /// Copy the pool's state, also while it runs
    #[command(after_help = "Examples:\n  clusterctl pool backup /backup/lab-monday")]
    Backup {
        #[command(flatten)]
        place: StateArgs,
        /// A directory that is not there yet
        directory: PathBuf,
    },
    /// Look through the pool's state for damage, also while it runs; exits 1 if there is some
    Check(StateArgs),
    /// Make a pool a service of systemd, and start it
    #[command(
        after_help = "Examples:\n  clusterctl pool install --name lab\n  clusterctl pool install --name lab --user --print"
    )]
    Install(Box<PoolInstallArgs>),
    /// End such a service and remove its unit; the state stays
    #[command(after_help = "Examples:\n  clusterctl pool uninstall --name lab")]
    Uninstall(UninstallArgs),
    /// The key by which the pool is known
    #[command(subcommand)]
    Identity(identity::PoolIdentityAction),
}

/// For commands about processes, which say where state lies behind the verb as well.
#[derive(Args, Debug, Clone, Default)]
struct StateArgs {
    /// Where state lies
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Global {
    /// The URL of a proxy may hold a password.
    fn wipe_proxy(&self) {
        self.proxy.iter().filter(|url| url.contains('@')).for_each(|url| title::wipe(url));
    }

    fn proxies(&self) -> Result<Proxies, Failure> {
        Proxies::of_process(self.proxy.as_deref())
            .map_err(|bad| Failure::new("usage", format!("cannot use the proxy: {bad}")))
    }
}

impl StateArgs {
    /// What is said behind the verb goes over what is said before it.
    fn over(&self, global: &Global) -> Global {
        Global { state: self.state.clone().or_else(|| global.state.clone()), ..global.clone() }
    }
}

#[derive(Subcommand, Debug)]
enum WorkerCommand {
    /// Join a pool, and work for it
    #[command(
        after_help = "Examples:\n  clusterctl worker join head:7700 --token CCT1-w-…\n  clusterctl worker join localhost:7700 --slots 4 --label gpu=a100"
    )]
    Join(JoinArgs),
    /// Look at what keeps a worker on this machine from working, or could, and say what to do about it
    #[command(
        after_help = "Examples:\n  clusterctl worker doctor\n  clusterctl worker doctor head:7700 --work-dir /scratch"
    )]
    Doctor(WorkerDoctorArgs),
    /// Join a pool now, make the worker a service of systemd, and start it; takes what join takes
    #[command(
        after_help = "Examples:\n  clusterctl worker install head:7700 --token CCT1-w-… --run-as ann\n  clusterctl worker install head:7700 --user --print"
    )]
    Install(Box<WorkerInstallArgs>),
    /// End such a service and remove its unit; state and jobs stay
    #[command(
        after_help = "Examples:\n  clusterctl worker uninstall\n  clusterctl worker uninstall --name n1"
    )]
    Uninstall(UninstallArgs),
    /// The keys by which pools know this user's workers
    #[command(subcommand)]
    Identity(WorkerIdentityAction),
}

#[derive(Args, Debug)]
struct ExecutorArgs {
    #[arg(long)]
    directory: PathBuf,
    #[arg(long)]
    work_directory: PathBuf,
    /// As whom jobs run
    #[arg(long)]
    run_as: Option<String>,
}

#[derive(Args, Debug)]
struct KeeperArgs {
    /// Files that a job may have open
    #[arg(long)]
    files: u64,
    /// As whom they run: user:group:groups
    #[arg(long)]
    run_as: Option<Credentials>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    crash::tell_people();
    let mut cli = Cli::parse();
    // A variable that is empty says nothing.
    cli.global.pool.take_if(|pool| pool.is_empty());
    cli.global.state.take_if(|state| state.as_os_str().is_empty());
    let format = cli.global.output;
    let crashed = match &cli.command {
        None | Some(Command::Run(_) | Command::Wait(_)) => NO_RESULT,
        Some(_) => 1,
    };
    // What there is to say of a panic has been said.
    let ended = panic::catch_unwind(AssertUnwindSafe(|| dispatch(cli)));
    match ended.unwrap_or(Ok(crashed)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print(format);
            ExitCode::from(failure.exit)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let global = cli.global;
    global.wipe_proxy();
    let verbosity = if global.quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let manner = Manner { format: global.output, verbosity };
    match cli.command {
        Some(Command::Keeper(args)) => {
            keeper::run(timing(), args.files, args.run_as).map(|()| 0).map_err(internal)
        }
        Some(Command::Executor(args)) => {
            let ExecutorArgs { directory, work_directory, run_as } = args;
            let run_as = run_as.as_deref().map(JobUser::find).transpose().map_err(internal)?.flatten();
            log::start(global.log_format, "info", LogTo::File(directory.join(executor::LOG)));
            executor::run(ExecutorOptions { directory, work_directory, run_as, timing: timing() })
                .map(|()| 0)
                .map_err(internal)
        }
        Some(Command::Pool(PoolCommand::Serve(args))) => {
            serve::serve(&args.place.over(&global), &args, manner)
        }
        Some(Command::Pool(PoolCommand::Install(args))) => install::pool(&global, &args, manner),
        Some(Command::Pool(PoolCommand::Uninstall(args))) => install::uninstall(Served::Pool, &args, manner),
        Some(Command::Worker(WorkerCommand::Install(args))) => {
            log::start(global.log_format, "warn", LogTo::Stderr);
            install::worker(&global, &args, manner)
        }
        Some(Command::Worker(WorkerCommand::Uninstall(args))) => {
            install::uninstall(Served::Worker, &args, manner)
        }
        Some(Command::Worker(WorkerCommand::Join(args))) => join::join(&args.place.over(&global), &args),
        Some(Command::Worker(WorkerCommand::Doctor(args))) => {
            log::start(global.log_format, "error", LogTo::Stderr);
            let checks = block_on(join::doctor(&args.place.over(&global), &args))?;
            Ok(doctor::show(&checks, manner))
        }
        Some(Command::Worker(WorkerCommand::Identity(action))) => {
            log::start(global.log_format, "warn", LogTo::Stderr);
            block_on(join::renew(&global, &action, manner))
        }
        command => {
            log::start(global.log_format, "warn", LogTo::Stderr);
            block_on(client(global, command, cli.repl, manner))
        }
    }
}

async fn client(
    mut global: Global,
    command: Option<Command>,
    lines: bool,
    manner: Manner,
) -> Result<u8, Failure> {
    if let Some(Command::Pool(
        PoolCommand::Status(place)
        | PoolCommand::Stop(place)
        | PoolCommand::Check(place)
        | PoolCommand::Backup { place, .. },
    )) = &command
    {
        global = place.over(&global);
    }
    if let Some(Command::Pool(PoolCommand::Identity(action))) = &command {
        let identity::PoolIdentityAction::Renew { state, .. } = action;
        global.state = state.clone().or(global.state);
    }
    let surroundings = Surroundings::of_process(global.state.clone());
    if let Some(Command::Context(action)) = &command {
        if let context::ContextAction::Add { token, .. } = action {
            join::wipe_token(Some(token));
        }
        let root = StateRoot::find(&surroundings).map_err(|error| Failure::new("no-home", error))?;
        return context::context(action, &root, global.proxies()?, manner).await;
    }
    let proxies = global.proxies()?;
    if let Some(Command::Identity(args)) = &command {
        let root = StateRoot::find(&surroundings).map_err(|error| Failure::new("no-home", error))?;
        return identity::identity(args, &root, proxies, manner).await;
    }
    if let Some(Command::Doctor(place)) = &command {
        let state = place.state.clone().or(global.state);
        let checks = doctor::examine(global.pool.as_deref(), state, proxies).await;
        return Ok(doctor::show(&checks, manner));
    }
    let mut session = Session::new(global.pool.as_deref(), global.state, proxies)?;
    let Some(command) = command else { return bare(session, lines, manner).await };
    let session = &mut session;
    let none = Recent::default();
    match command {
        Command::Run(args) => job_result(run::run(session, &args, manner).await),
        Command::Submit(args) => run::run(session, &args.into(), manner).await,
        Command::Jobs(args) => jobs::jobs(session, &args, manner).await,
        Command::Show(args) => jobs::show(session, &args, none, manner).await,
        Command::Why(args) => jobs::why(session, &args, none, manner).await,
        Command::Logs(args) => logs::logs(session, &args, none, manner).await,
        Command::Wait(args) => job_result(wait::wait(session, &args, none, manner).await),
        Command::Cancel(args) => cancel::cancel(session, &args, none, manner).await,
        Command::Abandon(args) => cancel::abandon(session, &args, none, manner).await,
        Command::Retry(args) => {
            cancel::retry(session, &args, none, |id| commands::tell_id(id, manner)).await.map(|()| 0)
        }
        Command::Workers(args) => workers::workers(session, &args, manner).await,
        Command::Clients(args) => clients::clients(session, &args, manner).await,
        Command::Audit(args) => audit::audit(session, &args, manner).await,
        Command::Whoami => clients::whoami(session, manner).await,
        Command::Token(action) => token::token(session, &action, manner).await,
        Command::Pool(PoolCommand::Status(_)) => pool_commands::status(session, manner).await,
        Command::Pool(PoolCommand::Stop(_)) => pool_commands::stop(session, manner).await,
        Command::Pool(PoolCommand::Backup { directory, .. }) => upkeep::backup(session, &directory, manner),
        Command::Pool(PoolCommand::Check(_)) => upkeep::look_through(session, manner),
        Command::Pool(PoolCommand::Identity(identity::PoolIdentityAction::Renew { overlap, .. })) => {
            identity::renew_pool(session, overlap, manner).await
        }
        Command::Pool(PoolCommand::Serve(_) | PoolCommand::Install(_) | PoolCommand::Uninstall(_))
        | Command::Worker(_)
        | Command::Context(_)
        | Command::Identity(_)
        | Command::Doctor(_)
        | Command::Executor(_)
        | Command::Keeper(_) => unreachable!("these are no client's"),
    }
}

/// Without a command: the REPL on a terminal, else standard input as one job.
async fn bare(mut session: Session, lines: bool, manner: Manner) -> Result<u8, Failure> {
    if lines {
        return repl::run_lines(session, manner).await;
    }
    if std::io::stdin().is_terminal() {
        return repl::run(session, manner).await;
    }
    let mut script = Vec::new();
    std::io::stdin().read_to_end(&mut script)?;
    if script.iter().all(u8::is_ascii_whitespace) {
        return Ok(0);
    }
    let spec = run::JobArgs::default().spec(script, Vec::new())?;
    job_result(run::run_spec(&mut session, &spec, run::How::default(), manner).await)
}

/// Where the exit code is a job's, every failure of ours is `NO_RESULT`, but for what was mistyped.
fn job_result(result: Result<u8, Failure>) -> Result<u8, Failure> {
    result.map_err(|failure| Failure { exit: if failure.exit == 2 { 2 } else { NO_RESULT }, ..failure })
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

#[cfg(test)]
mod tests;
