//! A witness that is told one thing wrong finds the promise that this would break: each in a cluster where nothing is.

use std::collections::BTreeSet;
use std::io::Write;

use clusterctl::core::id::JobId;
use clusterctl::core::record::Record;

use super::Witness;
use crate::cluster::{Cluster, Home, wait_until};
use crate::history::{Happened, Promise};

/// A cluster in which an array of three has ended as it should.
struct Scene {
    _cluster: Cluster,
    client: Home,
    witness: Witness,
    job: String,
}

impl Scene {
    fn play() -> Self {
        let mut cluster = Cluster::start();
        cluster.join("w1", &["--slots", "2"]);
        let client = cluster.client("ann");
        let witness = Witness::new(&cluster, client.clone());
        let mut scene = Self { _cluster: cluster, client, witness, job: String::new() };
        let number = scene.witness.next_submit();
        scene.job = scene.submit(&number);
        scene
    }

    fn submit(&mut self, number: &str) -> String {
        let script = self.witness.script("out one; err two; out three; end 0");
        let id = self.client.run(["submit", "--env", number, "--array", "1-3", &script]).ok();
        let id = id.trim().to_owned();
        self.witness.acknowledged(&id);
        self.witness.follow(&id);
        assert_eq!(self.client.run(["wait", &id]).code, 0);
        self.witness.look(&id);
        id
    }

    fn breaks(mut self) -> BTreeSet<Promise> {
        self.witness.violations().into_iter().map(|broken| broken.promise).collect()
    }

    /// Adds to a file of the ledger.
    fn add(&self, name: &str, text: &str) {
        let path = self.witness.ledger.directory().join(name);
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Adds what a script would have told of its first attempt, or of another than its first.
    fn tell(&self, what: &str, attempt: u32) {
        let fence = *self.witness.starts().first().unwrap();
        let fence = fence.to_string().replace("#1@", &format!("#{attempt}@"));
        let at = self.witness.last().0;
        self.add("ledger", &format!("{what} {fence} {}.{:03}000 alone\n", at / 1000, at % 1000));
    }
}

#[test]
fn where_all_is_well_nothing_is_found() {
    assert_eq!(Scene::play().breaks(), BTreeSet::new());
}

#[test]
fn a_job_that_was_acknowledged_and_is_not_there_is_found() {
    let mut scene = Scene::play();
    scene.witness.acknowledged("4711");

    assert!(scene.breaks().contains(&Promise::P1));
}

#[test]
fn a_start_whose_assignment_is_not_in_the_log_is_found() {
    let mut scene = Scene::play();
    scene.witness.seen.retain(|(_, event)| !matches!(event, Happened::Recorded(Record::Assigned(_))));

    assert!(scene.breaks().contains(&Promise::P1));
}

#[test]
fn two_jobs_of_one_submit_are_found() {
    let mut scene = Scene::play();
    let again = format!("{}={}", super::SUBMIT, scene.witness.submits);
    scene.submit(&again);

    assert!(scene.breaks().contains(&Promise::P2));
}

#[test]
fn a_second_start_is_found() {
    for attempt in [1, 2] {
        let scene = Scene::play();
        scene.tell("start", attempt);

        assert!(scene.breaks().contains(&Promise::P3), "as attempt {attempt}");
    }
}

#[test]
fn another_end_than_the_one_that_is_told_is_found() {
    let mut scene = Scene::play();
    let path = scene.witness.ledger.directory().join("ledger");
    let told = std::fs::read_to_string(&path).unwrap();
    let last = told.trim_end().strip_suffix('0').unwrap();
    std::fs::write(&path, format!("{last}3\n")).unwrap();
    scene.witness.look(&scene.job);

    assert_eq!(scene.breaks(), BTreeSet::from([Promise::P5]));
}

#[test]
fn an_end_that_was_shown_otherwise_is_found() {
    let mut scene = Scene::play();
    let job = JobId(scene.job.parse().unwrap());
    let shown = scene.witness.seen.iter_mut().rev().find_map(|(_, event)| match event {
        Happened::JobSeen { job: seen, counts, .. } if *seen == job => Some(counts),
        _ => None,
    });
    // The same client had seen more that had ended, before.
    let mut before = *shown.unwrap();
    before.0.iter_mut().for_each(|count| *count += 1);
    let event = Happened::JobSeen { observer: super::OBSERVER, job, counts: before };
    scene.witness.see(event);
    scene.witness.look(&scene.job);

    assert_eq!(scene.breaks(), BTreeSet::from([Promise::P1]));
}

#[test]
fn output_that_is_not_what_was_written_is_found() {
    let scene = Scene::play();
    let fence = *scene.witness.starts().first().unwrap();
    scene.add(&format!("err-{fence}"), "and one more\n");

    assert_eq!(scene.breaks(), BTreeSet::from([Promise::P9]));
}

#[test]
fn a_follower_who_is_not_told_of_an_end_is_found() {
    let scene = Scene::play();
    let path = scene.witness.ledger.directory().join(format!("followed-{}", scene.job));
    let told = || std::fs::read_to_string(&path).unwrap();
    wait_until("all was told", || told().contains("\"event\":\"done\"") && told().ends_with('\n'));
    let is_end = |line: &&str| line.contains("\"event\":\"ended\"") && line.contains("\"task\":2");
    let but_one: String =
        told().lines().filter(|line| !is_end(line)).map(|line| format!("{line}\n")).collect();
    assert_ne!(but_one, told());
    std::fs::write(&path, but_one).unwrap();

    assert_eq!(scene.breaks(), BTreeSet::from([Promise::P10]));
}
