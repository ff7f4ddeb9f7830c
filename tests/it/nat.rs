//! A worker behind a real NAT, in network namespaces that the test makes. Needs root, iproute2, nftables and conntrack.

use std::path::Path;
use std::process::{Command, Output};

use crate::cluster::{Home, Process, Site, join_command, pool_command, serving, skipped, wait_until};

const POOL: &str = "203.0.113.10:7700";

/// The namespaces; dropping them ends what runs in them.
struct Lab {
    prefix: String,
}

impl Lab {
    /// Makes them; none, said loudly, where that cannot be done.
    fn up(number: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skipped("workers behind a NAT: making network namespaces needs root");
            return None;
        }
        let lab = Self { prefix: format!("cc{:x}-{number}", std::process::id() & 0xf_ffff) };
        let made = lab.act("up");
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            skipped(&format!("workers behind a NAT: {} (Debian: iproute2 nftables conntrack)", why.trim()));
            return None;
        }
        Some(lab)
    }

    fn act(&self, action: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/nat-lab.sh");
        Command::new(script).args([action, &self.prefix]).output().unwrap()
    }

    /// The same command, in a namespace.
    fn within(&self, namespace: &str, command: &Command) -> Command {
        let mut within = Command::new("ip");
        within.args(["netns", "exec", &format!("{}-{namespace}", self.prefix)]);
        within.arg(command.get_program()).args(command.get_args()).env_clear();
        within.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in command.get_envs() {
            within.env(name, value.unwrap_or_default());
        }
        within
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.act("down");
    }
}

/// A pool outside of the NAT and a worker behind it.
struct Natted {
    operator: Home,
    /// Ends before the namespaces.
    _processes: [Process; 2],
    lab: Lab,
    site: Site,
}

fn natted(number: u32) -> Option<Natted> {
    let lab = Lab::up(number)?;
    // Silence is noticed within a second.
    let site = Site::faster(20);
    let operator = site.home("operator");
    let (pool, _) = serving(&operator, lab.within("pool", &pool_command(&operator, POOL)));
    let token = operator.run(["token", "create", "--worker", "-q"]).ok();
    let home = site.home("n1");
    let joining = join_command(&home, POOL, "n1", &["--token", token.trim()]);
    let worker = Process::logged(&home, lab.within("worker", &joining));
    wait_until("the worker has joined", || {
        operator.run(["workers", "--output", "json"]).ok().contains("\"state\":\"ready\"")
    });
    Some(Natted { operator, _processes: [pool, worker], lab, site })
}

/// A job that has said `before` and ends with `after` when this file is there.
fn start_waiter(natted: &Natted, go: &Path) -> String {
    let script = format!("echo before; until [ -e {} ]; do sleep 0.01; done; echo after", go.display());
    let id = natted.operator.run(["submit", &script]).ok().trim().to_owned();
    natted.operator.wait_for_state(&id, "running");
    wait_until("it has spoken", || natted.operator.run(["logs", &id]).stdout == "before\n");
    id
}

#[test]
fn a_worker_behind_a_nat_joins_and_runs_jobs_although_nobody_can_reach_it() {
    let Some(natted) = natted(1) else { return };

    let done =
        natted.operator.run(["run", "echo out; ip -o addr show 2>/dev/null | grep -o 10.77.0.2; exit 3"]);

    assert_eq!((done.code, done.stdout.as_str()), (3, "out\n10.77.0.2\n"));
    let mut dialling = Command::new("bash");
    dialling.args(["-c", "exec 3<>/dev/tcp/10.77.0.2/22"]);
    let dialled = natted.lab.within("pool", &dialling).output().unwrap();
    let why = String::from_utf8_lossy(&dialled.stderr);
    assert!(why.contains("unreachable"), "the worker can be reached, so this proves nothing: {dialled:?}");
}

#[test]
fn a_nat_that_forgets_its_flows_costs_a_running_job_nothing() {
    let Some(natted) = natted(2) else { return };
    let go = natted.site.path().join("go");
    let id = start_waiter(&natted, &go);

    // Nobody is told: what either side sends from now on vanishes.
    assert!(natted.lab.act("forget").status.success());
    std::fs::write(&go, "").unwrap();

    assert_eq!(natted.operator.run(["wait", &id]).code, 0);
    assert_eq!(natted.operator.run(["logs", &id]).ok(), "before\nafter\n");
}

#[test]
fn a_nat_that_shows_another_address_costs_a_running_job_nothing() {
    let Some(natted) = natted(3) else { return };
    let go = natted.site.path().join("go");
    let id = start_waiter(&natted, &go);

    assert!(natted.lab.act("rebind").status.success());
    std::fs::write(&go, "").unwrap();

    assert_eq!(natted.operator.run(["wait", &id]).code, 0);
    assert_eq!(natted.operator.run(["logs", &id]).ok(), "before\nafter\n");
}
