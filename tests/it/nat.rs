//! A worker behind a real NAT, in network namespaces that the test makes. Needs root, iproute2, nftables and conntrack.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::cluster::{Home, Process, Site, join_command, pool_command, serving, skipped, wait_until};
use crate::compiled::compiled;
use crate::witness::Witness;

const POOL: &str = "203.0.113.10:7700";

/// The namespaces; dropping them ends what runs in them.
struct Lab {
    prefix: String,
}

/// What is between the NAT and the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Near,
    /// 80 ms each way, give or take 20, and two of a hundred frames are lost.
    Far,
}

impl Lab {
    /// Makes them; none, said loudly, where that cannot be done.
    fn up(number: u32, link: Link, site: &Site) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skipped("workers behind a NAT: making network namespaces needs root");
            return None;
        }
        let lab = Self { prefix: format!("cc{:x}-{number}", std::process::id() & 0xf_ffff) };
        let program = match link {
            Link::Near => None,
            Link::Far => Some(compiled("far-link.c", &[], site.path(), "a worker that is far away")?),
        };
        let far = program.iter().flat_map(|program| [program.to_str().unwrap(), "80", "20", "2", "1"]);
        let made = lab.act("up", &far.collect::<Vec<_>>());
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr);
            skipped(&format!("workers behind a NAT: {} (Debian: iproute2 nftables conntrack)", why.trim()));
            return None;
        }
        Some(lab)
    }

    fn act(&self, action: &str, more: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/nat-lab.sh");
        Command::new(script).args([action, &self.prefix]).args(more).output().unwrap()
    }

    #[track_caller]
    fn must(&self, action: &str, more: &[&str]) {
        let acted = self.act(action, more);
        assert!(acted.status.success(), "{action}: {acted:?}");
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
        self.act("down", &[]);
    }
}

/// A pool outside of the NAT and a worker behind it.
struct Natted {
    operator: Home,
    witness: Witness,
    /// Ends before the namespaces.
    _processes: [Process; 2],
    lab: Lab,
    site: Site,
}

/// One whose silence is noticed within a second.
fn natted(number: u32) -> Option<Natted> {
    Natted::new(number, Link::Near, Site::faster(20))
}

impl Natted {
    fn new(number: u32, link: Link, site: Site) -> Option<Self> {
        let lab = Lab::up(number, link, &site)?;
        let operator = site.home("operator");
        let (pool, _) = serving(&operator, lab.within("pool", &pool_command(&operator, POOL)));
        let token = operator.run(["token", "create", "--worker", "-q"]).ok();
        let home = site.home("n1");
        let joining = join_command(&home, POOL, "n1", &["--token", token.trim()]);
        let worker = Process::logged(&home, lab.within("worker", &joining));
        wait_until("the worker has joined", || {
            operator.run(["workers", "--output", "json"]).ok().contains("\"state\":\"ready\"")
        });
        let witness = Witness::at(&site, &operator, operator.clone());
        Some(Self { operator, witness, _processes: [pool, worker], lab, site })
    }

    /// As which the pool knows the worker.
    fn state(&self) -> String {
        let workers: serde_json::Value =
            serde_json::from_str(&self.operator.run(["workers", "--output", "json"]).ok()).unwrap();
        workers[0]["state"].as_str().unwrap().to_owned()
    }

    /// From which ports the worker dials, and nobody has answered yet.
    fn dialling(&self) -> Vec<String> {
        let mut sockets = Command::new("ss");
        sockets.args(["-Htn", "state", "syn-sent"]);
        let shown = self.lab.within("worker", &sockets).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        shown.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
    }

    /// Waits until the worker is in the midst of a dial that is not its first: one that lasted long would be the last
    /// chance for long, since the kernel asks ever more seldom.
    fn wait_until_it_dials_again(&self) {
        let mut ports = BTreeSet::new();
        wait_until("the worker dials again", || {
            let now = self.dialling();
            ports.extend(now.iter().cloned());
            ports.len() > 1 && !now.is_empty()
        });
    }

    /// How often the worker has come.
    fn registrations(&self) -> usize {
        let log = std::fs::read_to_string(self.operator.path().join("pool.log")).unwrap();
        log.matches("registered worker=n1").count()
    }
}

/// A job that has said `before`, and says `after` when it is let go.
struct Waiter {
    id: String,
    go: PathBuf,
}

impl Waiter {
    fn start(natted: &mut Natted) -> Self {
        let go = natted.site.path().join("go");
        let body =
            format!("out before; until [ -e {} ]; do sleep 0.01; done; out after; end 0", go.display());
        let (script, number) = (natted.witness.script(&body), natted.witness.next_submit());
        let id = natted.operator.run(["submit", "--env", &number, &script]).ok().trim().to_owned();
        natted.witness.acknowledged(&id);
        natted.operator.wait_for_state(&id, "running");
        wait_until("it has spoken", || natted.operator.run(["logs", &id]).stdout == "before\n");
        Self { id, go }
    }

    fn let_go(&self) {
        std::fs::write(&self.go, "").unwrap();
    }

    /// Its end is the one that it wanted, it ran once, and all that it said is there.
    fn finish(self, mut natted: Natted) {
        assert_eq!(natted.operator.run(["wait", &self.id]).code, 0);
        assert_eq!(natted.operator.run(["logs", &self.id]).ok(), "before\nafter\n");
        natted.witness.look(&self.id);
        natted.witness.assert_all_held("behind a NAT");
    }
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
    let Some(mut natted) = natted(2) else { return };
    let waiter = Waiter::start(&mut natted);

    // Nobody is told: what either side sends from now on vanishes.
    natted.lab.must("forget", &[]);
    waiter.let_go();

    waiter.finish(natted);
}

#[test]
fn a_nat_that_shows_another_address_costs_a_running_job_nothing() {
    let Some(mut natted) = natted(3) else { return };
    let waiter = Waiter::start(&mut natted);

    natted.lab.must("rebind", &[]);
    waiter.let_go();

    waiter.finish(natted);
}

#[test]
fn a_nat_that_forgets_what_is_idle_costs_a_running_job_nothing() {
    // Each heartbeat comes later than the NAT remembers.
    let Some(mut natted) = Natted::new(4, Link::Near, Site::faster(3)) else { return };
    natted.lab.must("forgetful", &["1"]);
    natted.lab.must("forget", &[]);
    let before = natted.registrations();
    let waiter = Waiter::start(&mut natted);

    wait_until("it has been forgotten, and come again, twice", || natted.registrations() >= before + 2);
    waiter.let_go();

    waiter.finish(natted);
}

/// Breaks the line, by promises at their full length, until the pool notices; mends it, and looks how long it takes until
/// the worker is back.
fn break_and_mend(number: u32, what: &str, more: &[&str]) {
    let Some(mut natted) = Natted::new(number, Link::Near, Site::new()) else { return };
    let waiter = Waiter::start(&mut natted);

    natted.lab.must(what, more);
    let broken = Instant::now();
    wait_until("the worker is silent", || natted.state() == "silent");
    let noticed = broken.elapsed();
    assert_eq!(natted.operator.job(&waiter.id)["state"], "unknown");
    waiter.let_go();
    natted.wait_until_it_dials_again();
    natted.lab.must("mend", &[]);
    let mended = Instant::now();
    wait_until("the worker is back", || natted.state() == "ready");
    let back = mended.elapsed();

    waiter.finish(natted);
    println!(
        "{what} {}: silence noticed {:.1} s after the break, back {:.1} s after it was mended",
        more.join(" "),
        noticed.as_secs_f64(),
        back.as_secs_f64()
    );
    assert!(back < Duration::from_secs(5), "back after {back:?}");
}

#[test]
fn a_worker_whose_link_was_down_is_back_within_five_seconds_and_its_job_went_on() {
    break_and_mend(5, "cut", &[]);
}

#[test]
fn a_worker_that_nobody_heard_is_back_within_five_seconds_and_its_job_went_on() {
    break_and_mend(6, "deafen", &["pool"]);
}

#[test]
fn a_worker_that_heard_nobody_is_back_within_five_seconds_and_its_job_went_on() {
    break_and_mend(7, "deafen", &["worker"]);
}

#[test]
fn a_worker_that_is_far_away_on_a_bad_line_loses_nothing() {
    let Some(natted) = Natted::new(8, Link::Far, Site::new()) else { return };
    let script = "seq 1 200000; sleep 0.2; seq 1 1000 >&2; exit 7";

    let done = natted.operator.run(["run", script]);

    let wanted = |last: u32| (1..=last).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(done.code, 7);
    assert!(done.stdout == wanted(200_000) && done.stderr == wanted(1000), "the output is another");
}
