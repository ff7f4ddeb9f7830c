//! What was found at a pool, and what that means: how far it is, who is silent, how full it is, and who could read its
//! state.

use std::time::Duration;

use super::Check;
use crate::core::membership::Sharing;
use crate::core::size::size;
use crate::core::space::{Space, low};
use crate::core::view::{PoolStatus, WorkerInfo, WorkerState};

/// A person notices a line that takes longer.
const ROUND_TRIP_SLOW: Duration = Duration::from_millis(300);
/// A pool that keeps so much of what it may is told of, in percent.
const OUTPUT_PERCENT_NEAR: u64 = 80;
/// So many workers are named, and the others counted.
const NAMED_MAX: usize = 5;

/// A pool, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over the network, at an address; it proves its key.
    Network(String),
    /// By a proxy.
    Proxy(String, String),
    /// By its socket on this machine, which the kernel vouches for.
    Socket(String),
}

impl Way {
    /// What is said of a pool that was reached so.
    pub fn words(&self) -> String {
        match self {
            Way::Network(address) => format!("{address} reachable, key fingerprint matches"),
            Way::Proxy(address, proxy) => {
                format!("{address} reachable by the proxy at {proxy}, key fingerprint matches")
            }
            Way::Socket(pool) => format!("{pool} runs on this machine"),
        }
    }
}

/// A pool that answered.
pub fn reached(way: &Way, round_trip: Duration) -> Check {
    let ms = round_trip.as_secs_f64() * 1000.0;
    let words = format!("{}, round trip {ms:.1} ms", way.words());
    if round_trip > ROUND_TRIP_SLOW {
        return Check::warn("network", words, "Far or busy: what is typed appears that much later");
    }
    Check::ok("network", words)
}

/// How much of its output limit a pool has used.
pub fn output(status: &PoolStatus) -> Check {
    let PoolStatus { output_bytes, output_limit_bytes: limit, listening, .. } = status;
    let percent = output_bytes.saturating_mul(100).checked_div(*limit).unwrap_or(100);
    let words = format!("{percent}% of its limit of {}", size(*limit));
    if percent < OUTPUT_PERCENT_NEAR {
        return Check::ok("output", words);
    }
    let gib = limit.saturating_mul(2).div_ceil(1 << 30);
    // The private pool in the background takes no options.
    let listen = if listening.is_some() { "" } else { " --listen 127.0.0.1:7700" };
    let remedy = format!("Raise: clusterctl pool serve{listen} --output-limit {gib}G");
    Check::warn("output", format!("{words}; the oldest goes first"), remedy)
}

/// Whether a pool takes new jobs, as far as its disk goes.
pub fn disk(status: &PoolStatus) -> Check {
    match status.space {
        None => untold("disk", "whether it has room for new jobs"),
        Some(Space::Enough) => Check::ok("disk", "the pool has room for new jobs"),
        Some(Space::Low { free_bytes, needed_bytes }) => Check::fail(
            "disk",
            format!(
                "the pool refuses new jobs, {} is nearly full: {}",
                status.state,
                low(free_bytes, needed_bytes)
            ),
            "Make room there, on the pool's machine: it takes jobs again by itself",
        ),
    }
}

/// What an older pool does not know to tell is not well for that.
fn untold(area: &'static str, what: &str) -> Check {
    Check::warn(area, format!("the pool does not tell {what}: it is older"), "Update the pool's clusterctl")
}

/// Who is there, and who is silent.
pub fn workers(workers: &[WorkerInfo]) -> Vec<Check> {
    let count = |state| workers.iter().filter(|worker| worker.state == state).count();
    let ready = count(WorkerState::Ready);
    let draining = count(WorkerState::Draining) + count(WorkerState::Drained);
    let full = workers.iter().filter(|worker| worker.state == WorkerState::Full).take(NAMED_MAX);
    let (silent, away) = (count(WorkerState::Silent), count(WorkerState::Away));
    let mut checks: Vec<Check> = workers
        .iter()
        .filter(|worker| worker.state == WorkerState::Silent)
        .take(NAMED_MAX)
        .map(|worker| {
            let name = &worker.name;
            let since = worker.seen.map_or_else(String::new, |seen| format!(" for {}", rough(seen)));
            Check::fail(
                "workers",
                format!("{name} is silent{since}, holding {} tasks", worker.tasks.len()),
                format!(
                    "On {name}: clusterctl worker doctor; or forget it: clusterctl workers remove {name}"
                ),
            )
        })
        .collect();
    if silent > NAMED_MAX {
        let words = format!("{} more are silent", silent - NAMED_MAX);
        checks.push(Check::fail("workers", words, "See: clusterctl workers"));
    }
    checks.extend(full.map(|worker| {
        let name = &worker.name;
        let words = format!("{name} has no space on its disk, and takes no more jobs until there is");
        Check::fail(
            "workers",
            words,
            format!("On {name}: make room where jobs run, see clusterctl worker doctor"),
        )
    }));
    if ready > 0 {
        let others = [(draining, "draining"), (away, "away")];
        let others = others.iter().filter(|(count, _)| *count > 0);
        let others: String = others.map(|(count, word)| format!(", {count} {word}")).collect();
        checks.push(Check::ok("workers", format!("{ready} ready{others}")));
    } else if silent == 0 {
        let remedy = match draining {
            0 => "Join one: clusterctl worker join HOST:PORT",
            _ => "Join one, or: clusterctl workers resume NAME",
        };
        checks.push(Check::warn("workers", "none is ready: jobs wait", remedy));
    }
    checks
}

/// Whether jobs of anybody could read a pool's keys and output: those on a worker of the pool's own
/// user or of root, on its machine.
pub fn isolation(workers: &[WorkerInfo]) -> Vec<Check> {
    let everybodys: Vec<&WorkerInfo> = workers
        .iter()
        .filter(|worker| worker.only_owner.is_none() && worker.state != WorkerState::Away)
        .collect();
    let mut checks: Vec<Check> = everybodys
        .iter()
        .filter_map(|worker| {
            let (user, remedy) = match worker.sharing {
                Sharing::User => ("its user", "Start it without --trust-submitters, or as another user"),
                Sharing::Root => ("root", "Let its jobs run as another user: worker join --run-as USER"),
                Sharing::Apart | Sharing::Unknown => return None,
            };
            let name = &worker.name;
            let words = format!(
                "jobs of anybody on {name} can read the pool's keys: they run on its machine, as {user}"
            );
            Some(Check::warn("isolation", words, remedy))
        })
        .take(NAMED_MAX)
        .collect();
    if everybodys.iter().any(|worker| worker.sharing == Sharing::Unknown) {
        checks.push(untold("isolation", "whether jobs can read its keys"));
    }
    if checks.is_empty() {
        let owners: Vec<&WorkerInfo> = workers.iter().filter(|worker| worker.only_owner.is_some()).collect();
        let words = match owners.as_slice() {
            [] => "no worker is known to run as the pool's user".to_owned(),
            [one] => format!("{} runs as the pool's user, and takes its jobs alone", one.name),
            many => format!("{} workers run as the pool's user, and take its jobs alone", many.len()),
        };
        checks.push(Check::ok("isolation", words));
    }
    checks
}

/// What the jobs of a worker that is started here could read of its pool.
pub fn beside(pool: &str, sharing: Sharing) -> Check {
    match sharing {
        Sharing::Apart => {
            Check::ok("isolation", format!("jobs here cannot read the state of pool \"{pool}\""))
        }
        Sharing::User => Check::warn(
            "isolation",
            format!("jobs here could read the keys of pool \"{pool}\": a worker takes its owner's alone"),
            "Start it as another user, and not with --trust-submitters",
        ),
        Sharing::Root => Check::warn(
            "isolation",
            format!("jobs of anybody here could read the keys of pool \"{pool}\", if they run as root"),
            "Let them run as another user: worker join --run-as USER",
        ),
        Sharing::Unknown => untold("isolation", "whether jobs here can read its keys"),
    }
}

/// A duration to its largest unit.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;
    use crate::core::id::{Fingerprint, JobId};
    use crate::core::label::Labels;
    use crate::core::membership::Tenure;
    use crate::core::time::WallTime;

    fn worker(name: &str, state: WorkerState) -> WorkerInfo {
        WorkerInfo {
            name: name.to_owned(),
            state,
            slots: 1,
            used: 0,
            labels: Labels::from([("hostname".to_owned(), "head".to_owned())]),
            memory_bytes: 0,
            seen: Some(Duration::from_secs(250)),
            tasks: Vec::new(),
            only_owner: None,
            sharing: Sharing::Apart,
            joined: WallTime(0),
            fingerprint: Some(Fingerprint([1; 32])),
            tenure: Tenure::Lasting,
        }
    }

    fn status(output_bytes: u64, listening: Option<&str>) -> PoolStatus {
        PoolStatus {
            name: "lab".into(),
            pid: 1,
            state: "/s".into(),
            listening: listening.map(str::to_owned),
            since: WallTime(0),
            workers: 0,
            silent: 0,
            slots: 0,
            used: 0,
            queued: 0,
            running: 0,
            unknown: 0,
            build: "0".into(),
            output_bytes,
            output_limit_bytes: 10 << 30,
            space: Some(Space::Enough),
            fingerprint: Fingerprint([0; 32]),
            newest: JobId(0),
        }
    }

    #[test]
    fn a_slow_line_warns() {
        let way = Way::Network("head:7700".to_owned());
        let near = reached(&way, Duration::from_micros(400));
        assert_eq!(near.words, "head:7700 reachable, key fingerprint matches, round trip 0.4 ms");
        assert_eq!(near.verdict, Verdict::Ok);
        assert_eq!(reached(&way, Duration::from_secs(1)).verdict, Verdict::Warn);
    }

    #[test]
    fn output_near_its_limit_warns_with_the_command_that_raises_it() {
        assert_eq!(output(&status(1 << 30, None)), Check::ok("output", "10% of its limit of 10.0 GiB"));
        let near = output(&status(9 << 30, Some("0.0.0.0:7700")));
        assert_eq!(near.verdict, Verdict::Warn);
        assert_eq!(near.remedy.as_deref(), Some("Raise: clusterctl pool serve --output-limit 20G"));
        assert!(output(&status(11 << 30, None)).remedy.unwrap().contains("--listen"));
    }

    #[test]
    fn a_pool_whose_disk_is_nearly_full_fails_with_place_and_way_out() {
        let well = status(0, None);
        let space = Some(Space::Low { free_bytes: 1_200_000, needed_bytes: 1_677_721 });

        assert_eq!(disk(&well), Check::ok("disk", "the pool has room for new jobs"));
        let low = disk(&PoolStatus { space, ..well });
        assert_eq!(low.verdict, Verdict::Fail);
        assert_eq!(
            low.words,
            "the pool refuses new jobs, /s is nearly full: 1.1 MiB are free, 1.6 MiB have to be for new jobs"
        );
        assert!(low.remedy.unwrap().starts_with("Make room there"));
    }

    #[test]
    fn what_an_older_pool_does_not_tell_is_not_called_well() {
        let worker = WorkerInfo { sharing: Sharing::Unknown, ..worker("n1", WorkerState::Ready) };

        let disk = disk(&PoolStatus { space: None, ..status(0, None) });
        let isolation = isolation(&[worker]);

        assert_eq!((disk.verdict, worst(&isolation)), (Verdict::Warn, Verdict::Warn));
        assert_eq!(isolation[0].words, "the pool does not tell whether jobs can read its keys: it is older");
    }

    #[test]
    fn silent_workers_fail_and_no_worker_warns() {
        let ready = worker("n1", WorkerState::Ready);

        assert_eq!(workers(std::slice::from_ref(&ready)), [Check::ok("workers", "1 ready")]);
        assert_eq!(worst(&workers(&[])), Verdict::Warn);
        assert_eq!(worst(&workers(&[worker("n2", WorkerState::Away)])), Verdict::Warn);
        let checks = workers(&[worker("n2", WorkerState::Silent), ready]);
        assert_eq!((checks[0].verdict, checks[1].verdict), (Verdict::Fail, Verdict::Ok));
        assert_eq!(checks[0].words, "n2 is silent for 4m, holding 0 tasks");
        let full = &workers(&[worker("n3", WorkerState::Full)])[0];
        assert_eq!(full.words, "n3 has no space on its disk, and takes no more jobs until there is");
        let many: Vec<WorkerInfo> = (0..9).map(|n| worker(&format!("n{n}"), WorkerState::Silent)).collect();
        assert_eq!(workers(&many).last().unwrap().words, "4 more are silent");
    }

    #[test]
    fn a_worker_whose_jobs_can_read_the_pools_state_warns() {
        // By the socket, and its jobs run as somebody else: --run-as.
        let apart = WorkerInfo { fingerprint: None, ..worker("n1", WorkerState::Ready) };
        let shares = WorkerInfo { sharing: Sharing::User, ..apart.clone() };
        let root = WorkerInfo { sharing: Sharing::Root, ..apart.clone() };
        let careful = WorkerInfo { only_owner: Some("ann".into()), ..shares.clone() };
        let away = WorkerInfo { state: WorkerState::Away, ..shares.clone() };
        let of = |worker: &WorkerInfo| worst(&isolation(std::slice::from_ref(worker)));

        assert_eq!([of(&apart), of(&shares), of(&root)], [Verdict::Ok, Verdict::Warn, Verdict::Warn]);
        assert_eq!([of(&careful), of(&away)], [Verdict::Ok, Verdict::Ok]);
        assert_eq!(beside("lab", Sharing::User).verdict, Verdict::Warn);
        // At the pool and at the worker the same helps.
        for remedy in [isolation(&[root])[0].remedy.clone(), beside("lab", Sharing::Root).remedy] {
            assert!(remedy.unwrap().contains("--run-as USER"));
        }
        assert_eq!(beside("lab", Sharing::Apart).verdict, Verdict::Ok);
    }
}
