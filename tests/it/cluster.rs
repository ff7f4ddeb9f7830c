//! The one fixture: a pool, workers and clients as real processes, each with a home of its own below one directory.
//!
//! Dropping it ends everything that it started, and nothing else: by process id, or by its own directory in a command
//! line (executors and private pools detach themselves).

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes that long, unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something holds. Tests wait for conditions, never for time.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Waits until there is something.
#[track_caller]
pub fn wait_for<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    wait_or(|| format!("waited too long until {what}"), find)
}

/// The same, with words of its own when it takes too long.
#[track_caller]
pub fn wait_or<T>(words: impl Fn() -> String, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "{}", words());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// Its standard output, of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }
}

/// A person's or a machine's home: everything that its processes keep lies below it.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    faster: Option<u32>,
}

impl Home {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its state lies.
    pub fn state(&self) -> PathBuf {
        self.path.join("data/clusterctl")
    }

    /// The program, with this home and nothing else of ours.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clusterctl"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.path)
            .env("XDG_DATA_HOME", self.path.join("data"))
            .current_dir(&self.path)
            .stdin(Stdio::null());
        if let Some(by) = self.faster {
            command.env("CLUSTERCTL_TIMING_DIVISOR", by.to_string());
        }
        command
    }

    /// Runs a command to its end.
    pub fn run<const N: usize>(&self, args: [&str; N]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Runs a command to its end, with this on its standard input.
    pub fn run_with_input<const N: usize>(&self, args: [&str; N], input: &[u8]) -> Done {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// A job as `show` tells of it.
    pub fn job(&self, id: &str) -> serde_json::Value {
        serde_json::from_str(&self.run(["show", id, "--output", "json"]).ok()).unwrap()
    }

    /// Waits until a job is in a state.
    #[track_caller]
    pub fn wait_for_state(&self, id: &str, state: &str) {
        wait_until(&format!("job {id} is {state}"), || self.job(id)["state"] == state);
    }
}

/// Homes below one directory, and every process that was started with one of them.
pub struct Site {
    directory: tempfile::TempDir,
    faster: Option<u32>,
}

impl Site {
    pub fn new() -> Self {
        Self::with(None)
    }

    /// All durations of the promises are divided by this.
    pub fn faster(by: u32) -> Self {
        Self::with(Some(by))
    }

    fn with(faster: Option<u32>) -> Self {
        Self { directory: tempfile::Builder::new().prefix("cctl-it-").tempdir().unwrap(), faster }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// An empty home.
    pub fn home(&self, name: &str) -> Home {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.join("data")).unwrap();
        Home { path, faster: self.faster }
    }

    /// Processes of this site that detached themselves, by something in their command line.
    pub fn detached(&self, what: &str) -> Vec<i32> {
        let site = self.directory.path().to_str().unwrap();
        processes()
            .filter(|(_, line)| line.contains(site) && line.contains(what))
            .map(|(pid, _)| pid)
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // An executor that ends takes its keepers and jobs with it.
        loop {
            let left = self.detached("");
            if left.is_empty() {
                return;
            }
            left.into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// All processes with their command lines.
pub fn processes() -> impl Iterator<Item = (i32, String)> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
}

/// The processor time of a process so far.
pub fn cpu_of(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs_f64(ticks as f64 / second as f64)
}

/// Sends a signal.
pub fn kill(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// A process of ours that ends with its handle.
pub struct Process {
    child: Child,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    /// A worker, whose words go to a file in its home.
    pub fn logged(home: &Home, mut command: Command) -> Self {
        let log = std::fs::File::create(home.path().join("worker.log")).unwrap();
        Self::start(command.stdout(Stdio::null()).stderr(log))
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: i32) {
        kill(self.pid(), signal);
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> i32 {
        wait_for("a process ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    pub fn stdout(&mut self) -> BufReader<std::process::ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A pool named `lab` on a port of loopback, with its operator's home.
pub struct Cluster {
    pool: Option<Process>,
    pub address: String,
    pub operator: Home,
    workers: Vec<Process>,
    pub site: Site,
}

impl Cluster {
    pub fn start() -> Self {
        Self::at(Site::new())
    }

    /// A cluster whose promises' durations are all divided by this.
    pub fn faster(by: u32) -> Self {
        Self::at(Site::faster(by))
    }

    /// A cluster in homes of this site.
    pub fn at(site: Site) -> Self {
        let operator = site.home("operator");
        let (pool, address) = serve(&operator, "127.0.0.1:0");
        Self { pool: Some(pool), address, operator, workers: Vec::new(), site }
    }

    pub fn pool_pid(&self) -> i32 {
        self.pool.as_ref().unwrap().pid()
    }

    /// As by a power cut of the pool's process.
    pub fn kill_pool(&mut self) {
        self.pool.take().unwrap().kill();
    }

    /// Starts the pool again, where it was.
    pub fn restart_pool(&mut self) {
        let (pool, address) = serve(&self.operator, &self.address);
        assert_eq!(address, self.address);
        self.pool = Some(pool);
    }

    pub fn token(&self, role: &str) -> String {
        self.operator.run(["token", "create", role, "-q"]).ok().trim().to_owned()
    }

    /// A worker in a home of its own, let in by a token; returns when it has joined.
    pub fn join(&mut self, name: &str, more: &[&str]) -> usize {
        let home = self.site.home(name);
        let token = self.token("--worker");
        let address = self.address.clone();
        let worker = join(&home, &address, name, &[&["--token", token.as_str()], more].concat());
        self.workers.push(worker);
        self.wait_for_worker(name, "ready");
        self.workers.len() - 1
    }

    #[track_caller]
    pub fn wait_for_worker(&self, name: &str, state: &str) {
        wait_until(&format!("worker {name} is {state}"), || {
            let workers = self.operator.run(["workers", "--output", "json"]).ok();
            let workers: serde_json::Value = serde_json::from_str(&workers).unwrap();
            workers
                .as_array()
                .unwrap()
                .iter()
                .any(|worker| worker["name"] == name && worker["state"] == state)
        });
    }

    pub fn worker(&mut self, number: usize) -> &mut Process {
        &mut self.workers[number]
    }

    /// A client in a home of its own, let in by a token.
    pub fn client(&self, name: &str) -> Home {
        self.client_at(name, &self.address)
    }

    /// A client that reaches the pool by another address.
    pub fn client_at(&self, name: &str, address: &str) -> Home {
        let home = self.site.home(name);
        let token = self.token("--client");
        home.run(["context", "add", "lab", address, "--as", name, "--token", &token]).ok();
        home
    }
}

/// Starts a pool; with where it listens.
fn serve(home: &Home, listen: &str) -> (Process, String) {
    serving(home, pool_command(home, listen))
}

/// The command that serves a pool named `lab`.
pub fn pool_command(home: &Home, listen: &str) -> Command {
    home.command(["pool", "serve", "--name", "lab", "--listen", listen])
}

/// Starts a pool by its command; with where it listens.
pub fn serving(home: &Home, mut command: Command) -> (Process, String) {
    let log = std::fs::File::create(home.path().join("pool.log")).unwrap();
    let mut pool = Process::start(command.stdout(Stdio::piped()).stderr(log));
    let mut line = String::new();
    pool.stdout().read_line(&mut line).unwrap();
    let address = line.split(" serving on ").nth(1).and_then(|rest| rest.split(' ').next());
    let log = || std::fs::read_to_string(home.path().join("pool.log")).unwrap();
    let address = address.unwrap_or_else(|| panic!("the pool does not serve: {line}{}", log())).to_owned();
    (pool, address)
}

/// Starts a worker.
pub fn join(home: &Home, address: &str, name: &str, more: &[&str]) -> Process {
    Process::logged(home, join_command(home, address, name, more))
}

/// The command by which a worker joins.
pub fn join_command(home: &Home, address: &str, name: &str, more: &[&str]) -> Command {
    let mut command = home.command(["worker", "join", address, "--name", name]);
    // The tests may run as root, and on the pool's own machine in any case.
    command.args(["--allow-root", "--trust-submitters", "--work-dir"]).arg(home.path()).args(more);
    command
}

/// Says so that nobody overlooks it that something was not tested. (What a test prints is kept from the terminal; what
/// it writes is not.)
pub fn skipped(what: &str) {
    // A terminal that is gone reads nothing.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {what}");
}
