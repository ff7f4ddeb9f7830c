//! How fast, against what: the ceiling of spawning, a peer that keeps nothing, and us, in turns within one run.
//!
//! ```text
//!   cargo bench                      everything, about two minutes
//!   cargo bench -- --rounds 9        more rounds: steadier medians
//!   cargo bench -- --tasks 10000     longer arrays
//!   cargo bench -- --workers 1000    a larger fleet that comes back to its pool
//! ```
//!
//! Rates are compared with the bare spawning of `bash -c true`, eight at a time, of the same round; latencies with a local
//! loop of it. What is ours is measured as it ships: TLS on, commits synced, a new directory for each attempt, output
//! kept. A job waits for two syncs of the disk, one before it starts and one before its end is told, so the table has
//! the disk's own time beside it. A fleet's workers dial from this very machine, from one source: their half of each
//! handshake takes its processors, too, and the pool hears eight of them at a time. Nothing here fails: machines are
//! shared, and the table says how far each number is from its goal.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "../tests/it/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../tests/it/fleet.rs"]
#[allow(dead_code)]
mod fleet;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, Home, Site, cpu_of};
use fleet::{Fleet, Homecoming, Return};

/// Jobs at a time, in the ceiling as in ours.
const SLOTS: usize = 8;
/// Single jobs of a round, by which latencies are judged.
const SINGLES: usize = 40;
/// Pools that are started for the first time, in a round.
const FIRSTS: usize = 3;

struct Options {
    rounds: usize,
    tasks: u32,
    workers: usize,
}

/// What was measured, one entry a round or a job.
#[derive(Default)]
struct Measured {
    ceiling: Vec<f64>,
    xargs: Vec<f64>,
    array: Vec<f64>,
    pool_cpu: Vec<f64>,
    jobs: Vec<f64>,
    bash: Vec<f64>,
    run: Vec<f64>,
    sync: Vec<f64>,
    first: Vec<f64>,
    at_once: Vec<Homecoming>,
    as_they_do: Vec<Homecoming>,
}

fn main() {
    let options = options();
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--slots", &SLOTS.to_string()]);
    let client = cluster.client("ann");
    let mut measured = Measured::default();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        measured.ceiling.push(f64::from(options.tasks) / spawn_all(options.tasks).as_secs_f64());
        measured.xargs.push(f64::from(options.tasks) / xargs(options.tasks).as_secs_f64());
        array(&cluster, &client, options.tasks, &mut measured);
        for _ in 0..SINGLES {
            measured.bash.push(milliseconds(timed(Command::new("bash").args(["-c", "true"]))));
            measured.run.push(milliseconds(timed(&mut client.command(["run", "true"]))));
            measured.sync.push(milliseconds(sync(cluster.site.path())));
        }
        for _ in 0..FIRSTS {
            measured.first.push(milliseconds(first_command()));
        }
    }
    drop(cluster);
    homecoming(&options, &mut measured);
    println!("{}", table(&options, &measured));
}

fn options() -> Options {
    let mut options = Options { rounds: 5, tasks: 2000, workers: 300 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number =
            |words: &mut dyn Iterator<Item = String>| words.next().and_then(|text| text.parse().ok());
        match word.as_str() {
            "--rounds" => options.rounds = number(&mut words).expect("--rounds N") as usize,
            "--tasks" => options.tasks = number(&mut words).expect("--tasks N"),
            "--workers" => options.workers = number(&mut words).expect("--workers N") as usize,
            // Cargo's own.
            "--bench" => {}
            other => panic!("there is no {other}: --rounds N, --tasks N, --workers N"),
        }
    }
    options
}

/// The ceiling: nothing but spawning.
fn spawn_all(count: u32) -> Duration {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..SLOTS {
            let share = count as usize / SLOTS + usize::from(n < count as usize % SLOTS);
            scope.spawn(move || {
                for _ in 0..share {
                    timed(Command::new("bash").args(["-c", "true"]));
                }
            });
        }
    });
    begun.elapsed()
}

fn xargs(count: u32) -> Duration {
    let script = format!("seq {count} | xargs -P {SLOTS} -n 1 bash -c true");
    timed(Command::new("bash").args(["-c", &script]))
}

/// One array, with the pool's processor time for each of its tasks, and how long it takes to list jobs meanwhile.
fn array(cluster: &Cluster, client: &Home, count: u32, measured: &mut Measured) {
    let cpu = cpu_of(cluster.pool_pid());
    let begun = Instant::now();
    let range = format!("1-{count}");
    let id = client.run(["submit", "--array", &range, "true"]).ok();
    let mut waiting = client.command(["wait", id.trim()]).stdout(Stdio::null()).spawn().unwrap();
    let mut listed = Vec::new();
    let ended = loop {
        if let Some(status) = waiting.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            break begun.elapsed();
        }
        // Only a few: a client more is work too.
        if listed.len() < 3 {
            listed.push(milliseconds(timed(client.command(["jobs"]).stdout(Stdio::null()))));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    measured.array.push(f64::from(count) / ended.as_secs_f64());
    measured.pool_cpu.push((cpu_of(cluster.pool_pid()) - cpu).as_secs_f64() * 1e6 / f64::from(count));
    measured.jobs.extend(listed);
}

/// A fleet's pool is killed and started again, over and over.
fn homecoming(options: &Options, measured: &mut Measured) {
    eprintln!("{} workers come back", options.workers);
    let mut cluster = Cluster::start();
    let fleet = Fleet::join(&cluster, options.workers);
    for _ in 0..options.rounds {
        measured.at_once.push(fleet.come_home(&mut cluster, Return::AtOnce));
        measured.as_they_do.push(fleet.come_home(&mut cluster, Return::AsTheyDo));
    }
}

/// A page is written and synced, where the pool keeps its state.
fn sync(directory: &Path) -> Duration {
    let mut file = tempfile::tempfile_in(directory).unwrap();
    file.write_all(&[1; 4096]).unwrap();
    let begun = Instant::now();
    file.sync_data().unwrap();
    begun.elapsed()
}

/// The first command of somebody who has no pool yet.
fn first_command() -> Duration {
    let site = Site::new();
    let home = site.home("ann");
    let mut command = Command::new("bash");
    for (name, value) in home.command([""]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let script = format!("echo true | {}", env!("CARGO_BIN_EXE_clusterctl"));
    timed(command.args(["-c", &script]))
}

fn timed(command: &mut Command) -> Duration {
    let begun = Instant::now();
    let status = command.status().unwrap();
    let took = begun.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value below which this part of them lies.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The median of what each round had of its own ceiling.
fn of_ceiling(rates: &[f64], ceiling: &[f64]) -> f64 {
    let ratios: Vec<f64> = rates.iter().zip(ceiling).map(|(rate, ceiling)| rate / ceiling).collect();
    median(&ratios)
}

fn table(options: &Options, measured: &Measured) -> String {
    let Measured { ceiling, xargs, array, pool_cpu, jobs, bash, run, sync, first, .. } = measured;
    let Measured { at_once, as_they_do, .. } = measured;
    let cores = std::thread::available_parallelism().unwrap();
    let rate =
        |rates: &[f64]| format!("{:6.0}/s  {:5.2} of the ceiling", median(rates), of_ceiling(rates, ceiling));
    let extra = |part| quantile(run, part) - quantile(bash, part);
    let lines = [
        ("ceiling: bash -c true, 8 at a time", format!("{:6.0}/s", median(ceiling)), ""),
        ("xargs -P 8", rate(xargs), ""),
        ("F1  array of true, 8 slots", rate(array), "≥ 0.90"),
        ("F7  processor time of the pool, a task", format!("{:6.0} µs", median(pool_cpu)), "≤ 60 µs"),
        ("    jobs while it runs, slowest", format!("{:6.1} ms", quantile(jobs, 1.0)), "≤ 100 ms"),
        ("    local loop of bash, p50 / p99", both(bash), ""),
        ("    run true, p50 / p99", both(run), ""),
        (
            "F3  the difference, p50 / p99",
            format!("{:+6.1} / {:+.1} ms", extra(0.5), extra(0.99)),
            "≤ +4 / +10 ms",
        ),
        ("    one sync of the disk, p50 / p99", both(sync), ""),
        ("    F3 without its two syncs, p50", format!("{:+6.1} ms", extra(0.5) - 2.0 * median(sync)), ""),
        ("F14 the first command ever, p50", format!("{:6.0} ms", median(first)), "≤ 150 ms"),
        ("P7  workers back, dialling at once", back(at_once), "≥ 300/s"),
        ("    the same, with an agent's pauses", back(as_they_do), ""),
    ];
    let mut text = format!(
        "{cores} cores, {} rounds, arrays of {}, {SINGLES} single jobs a round, {} workers; medians\n",
        options.rounds, options.tasks, options.workers
    );
    for (what, value, goal) in lines {
        text += &format!("{what:<40} {value:<34} {goal}\n");
    }
    text
}

fn both(values: &[f64]) -> String {
    format!("{:6.1} / {:.1} ms", median(values), quantile(values, 0.99))
}

/// How a fleet came back.
fn back(homecomings: &[Homecoming]) -> String {
    let of = |what: fn(&Homecoming) -> f64| median(&homecomings.iter().map(what).collect::<Vec<_>>());
    let cpu = of(|back| back.pool_cpu.as_secs_f64() * 1e6);
    format!("{:6.0}/s  {cpu:.0} µs of the pool for each", of(Homecoming::rate))
}
