//! One bit of what a pool has on its disk is another one when the pool comes back.
//!
//! `CLUSTERCTL_FLIPS=N` flips N of each kind of file, `CLUSTERCTL_SEED=S` chooses where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Dice, figures, number};
use crate::cluster::{Cluster, Done, Home, Process, kill, pool_command, wait_for, wait_until};

const DATABASE: &str = "queue.db";
const LOG: &str = "queue.db-wal";
const OUTPUT: &str = "output";
const PAGE_BYTES: usize = 4096;
/// Of a page: where SQLite has what it finds the rest by.
const PAGE_HEAD_BYTES: usize = 64;
/// Of SQLite's write-ahead log: what is before the frames, and a frame, which is a page behind what is said of it.
const LOG_HEADER_BYTES: usize = 32;
const LOG_FRAME_BYTES: usize = 24 + PAGE_BYTES;
/// Of the script of a job: a page has room for two.
const SCRIPT_BYTES: usize = 1800;

/// A pool that is down.
struct Lived {
    cluster: Cluster,
    /// Its database and its output as they were left.
    whole: PathBuf,
    jobs: Vec<String>,
    /// One of them that has written something and goes on.
    open: String,
    /// What was told of those that have ended, while it lived.
    told: Told,
}

/// What clients are told: what was asked, with the answer.
type Told = BTreeMap<Vec<String>, Done>;

/// Which bit of which file.
#[derive(Clone, Debug)]
struct Flip {
    file: PathBuf,
    at: usize,
    bit: usize,
    /// It is where a crash tears what it interrupts, and nobody can tell the one from the other: in the last commit of
    /// the write-ahead log, or in the segment that was written last. What is cut there was told to somebody all the same.
    may_be_torn: bool,
}

/// What comes of a flip, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Unchanged,
    Torn,
    Missing,
    RequestRefused,
    StartRefused,
}

impl Seen {
    const ALL: [(Self, &'static str); 5] = [
        (Self::StartRefused, "refused to start"),
        (Self::RequestRefused, "refused a request"),
        (Self::Missing, "told as missing"),
        (Self::Torn, "taken for torn"),
        (Self::Unchanged, "changed nothing"),
    ];
}

impl Flip {
    fn choose(kind: &str, state: &Path, dice: &mut Dice) -> Self {
        let files = if kind == OUTPUT { segments(state) } else { vec![state.join(kind)] };
        let end: usize = files.iter().map(|file| length(file)).sum();
        let (mut at, bit) = (below(dice, end), below(dice, 8));
        // Most of a page is rows or nothing; what decides which of them are found is small.
        if kind == DATABASE && dice.below(2) == 0 {
            at -= at % PAGE_BYTES / PAGE_HEAD_BYTES * PAGE_HEAD_BYTES;
        }
        let mut file = files.iter();
        let file = loop {
            let file = file.next().expect("it is below the sum of all lengths");
            if at < length(file) {
                break file.clone();
            }
            at -= length(file);
        };
        let may_be_torn = match kind {
            LOG => last_commit(&file).contains(&at),
            OUTPUT => files.last() == Some(&file),
            _ => false,
        };
        Self { file, at, bit, may_be_torn }
    }

    fn make(&self) {
        let mut bytes = fs::read(&self.file).unwrap();
        bytes[self.at] ^= 1 << self.bit;
        fs::write(&self.file, bytes).unwrap();
    }
}

fn below(dice: &mut Dice, end: usize) -> usize {
    usize::try_from(dice.below(end as u64)).unwrap()
}

fn length(path: &Path) -> usize {
    usize::try_from(fs::metadata(path).unwrap().len()).unwrap()
}

/// Segments of output with anything in them, oldest first.
fn segments(state: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(state.join(OUTPUT)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.filter(|path| length(path) > 0).collect();
    found.sort();
    found
}

/// Where the last commit of a write-ahead log lies.
fn last_commit(log: &Path) -> std::ops::Range<usize> {
    let bytes = fs::read(log).unwrap();
    let mut ends = vec![0];
    for (frame, n) in bytes[LOG_HEADER_BYTES..].chunks_exact(LOG_FRAME_BYTES).zip(1..) {
        let has_salts = frame[8..16] == bytes[16..24];
        // The last frame of a commit says how large the database is then.
        if has_salts && frame[4..8] != [0; 4] {
            ends.push(n);
        }
    }
    let at = |n: usize| LOG_HEADER_BYTES + ends[ends.len() - n] * LOG_FRAME_BYTES;
    at(2)..at(1)
}

/// Puts database and output as they are at one place into another.
fn copy(from: &Path, to: &Path) {
    // Whoever opens the database makes the index of its write-ahead log anew.
    for name in [DATABASE, LOG, "queue.db-shm"] {
        let _ = fs::remove_file(to.join(name));
    }
    for name in [DATABASE, LOG] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let _ = fs::remove_dir_all(to.join(OUTPUT));
    fs::create_dir(to.join(OUTPUT)).unwrap();
    for segment in segments(from) {
        fs::copy(&segment, to.join(OUTPUT).join(segment.file_name().unwrap())).unwrap();
    }
}

/// Asks for everything.
fn ask(operator: &Home, jobs: &[String]) -> Told {
    let mut questions = vec![
        vec!["jobs", "--all", "--output", "json"],
        vec!["token", "list", "--output", "json"],
        vec!["audit", "--verify"],
    ];
    for id in jobs {
        questions.push(vec!["show", id, "--output", "json"]);
        questions.push(vec!["logs", id]);
    }
    let mut told = Told::new();
    for question in questions {
        let mut answer: Done = operator.command(&question).output().unwrap().into();
        if question[0] == "audit" && answer.code == 0 {
            // The trail goes on when the pool is started, so its head is another one each time.
            answer.stderr.clear();
        }
        told.insert(question.into_iter().map(str::to_owned).collect(), answer);
    }
    told
}

/// Whoever closes a database last puts what its write-ahead log has where it belongs.
fn write_back(database: &Path) {
    let database = rusqlite::Connection::open(database).unwrap();
    database.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, u32>(0)).unwrap();
}

impl Lived {
    /// Its database and its write-ahead log, the segment that was written last and the one before it: each has something
    /// of jobs that have ended, and of one that has not.
    fn new() -> Self {
        let mut cluster = Cluster::start();
        cluster.join("w1", &["--slots", "4"]);
        let operator = cluster.operator.clone();
        let submit = |args: &[&str]| {
            let id: Done = operator.command(["submit"]).args(args).output().unwrap().into();
            id.ok().trim().to_owned()
        };
        let gate = cluster.site.path().join("gate");
        let script = format!(
            "seq 1 2000; while [ ! -e {} ]; do sleep 0.02; done; seq 1 3000; exec sleep 1000",
            gate.display()
        );
        let open = submit(&[&script]);
        let has_written = |last: &str| {
            wait_until("it has written", || operator.run(["logs", &open]).stdout.ends_with(last));
        };
        let mut jobs: Vec<_> =
            (0..6).map(|n| submit(&[&format!("echo {n}; exit {n}; {}", "#".repeat(SCRIPT_BYTES))])).collect();
        jobs.push(submit(&["--array", "1-9", "echo $CLUSTERCTL_TASK; echo no >&2"]));
        jobs.push(submit(&["seq 1 5000"]));
        for id in &jobs {
            operator.run(["wait", id]);
        }
        has_written("\n2000\n");
        cluster.kill_pool();
        let state = operator.state().join("lab");
        write_back(&state.join(DATABASE));
        cluster.restart_pool();
        cluster.wait_for_worker("w1", "ready");
        for script in ["echo late; exit 3", "seq 1 5000"] {
            let id = submit(&["--name", "late", script]);
            operator.run(["wait", &id]);
            jobs.push(id);
        }
        fs::write(&gate, "").unwrap();
        has_written("\n3000\n");
        // Nothing comes of itself any longer: the last commit is a token's.
        cluster.worker(0).signal(libc::SIGKILL);
        cluster.site.detached(" executor ").into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        wait_until("w1 is away", || !operator.run(["workers"]).ok().contains("ready"));
        let mut told = ask(&operator, &jobs);
        told.retain(|question, _| question[0] == "show" || question[0] == "logs");
        jobs.extend([open.clone(), submit(&["--where", "nobody=has", "echo waits"])]);
        cluster.token("--client");
        cluster.kill_pool();
        let whole = cluster.site.path().join("whole");
        fs::create_dir(&whole).unwrap();
        copy(&state, &whole);
        Self { cluster, whole, jobs, open, told }
    }

    fn operator(&self) -> &Home {
        &self.cluster.operator
    }

    fn state(&self) -> PathBuf {
        self.operator().state().join("lab")
    }

    /// Starts the pool on what is there; how it ended, if it does not serve.
    fn start(&self) -> Result<Process, Done> {
        let at = |name: &str| self.operator().path().join(name);
        let said = || fs::read_to_string(at("pool.log")).unwrap();
        let mut command = pool_command(self.operator(), &self.cluster.address);
        command.stdout(fs::File::create(at("pool.out")).unwrap());
        let mut pool = Process::start(command.stderr(fs::File::create(at("pool.log")).unwrap()));
        let code = wait_for("the pool serves or has ended", || {
            let serves = fs::read_to_string(at("pool.out")).unwrap().contains(" serving on ");
            pool.ended().map(Some).or_else(|| serves.then_some(None))
        });
        match code {
            None => Ok(pool),
            Some(code) => Err(Done { code, stdout: String::new(), stderr: said() }),
        }
    }

    /// What the pool tells that is started on what there is.
    fn tells(&self) -> Told {
        let _pool = self.start().unwrap_or_else(|done| panic!("nothing is damaged: {done:?}"));
        ask(self.operator(), &self.jobs)
    }

    fn before(&self) -> Before {
        copy(&self.whole, &self.state());
        let whole = self.tells();
        copy(&self.whole, &self.state());
        let log = self.state().join(LOG);
        let begins = last_commit(&log).start;
        fs::File::options().write(true).open(&log).unwrap().set_len(begins as u64).unwrap();
        Before { whole, without_last_commit: self.tells() }
    }

    /// What comes of a flip, and whether `pool check` finds it.
    fn round(&self, before: &Before, kind: &str, dice: &mut Dice) -> (Seen, bool) {
        copy(&self.whole, &self.state());
        let flip = Flip::choose(kind, &self.state(), dice);
        let _words = Words(&flip);
        flip.make();
        let checked = self.operator().run(["pool", "check", "--pool", "lab"]);
        let is_found = checked.code == 1 && is_told_damage(&(checked.stdout.clone() + &checked.stderr));
        assert!(checked.code == 0 || is_found, "{checked:?}");
        let seen = match self.start() {
            Ok(_pool) => self.compare(before, &flip),
            Err(done) => {
                assert!(done.code == 1 && is_told_damage(&done.stderr), "{done:?}");
                Seen::StartRefused
            }
        };
        let log = fs::read_to_string(self.operator().path().join("pool.log")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        assert!(is_found || seen <= Seen::Torn || flip.may_be_torn, "pool check found nothing, {seen:?}");
        (seen, is_found)
    }

    fn compare(&self, before: &Before, flip: &Flip) -> Seen {
        let now = ask(self.operator(), &self.jobs);
        if flip.may_be_torn && now == before.without_last_commit && now != before.whole {
            return Seen::Torn;
        }
        let of_each = before.whole.iter().map(|(question, before)| {
            let (now, whole) = (&now[question], &before.stdout);
            // What it has written in all is known when it has ended: before, nobody can tell that an end is missing.
            let may_be_short = flip.may_be_torn && *question == ["logs", &self.open];
            let is_short = now.code == 0 && now.stderr == before.stderr && whole.starts_with(&now.stdout);
            match seen(question, before, now) {
                Some(seen) => seen,
                None if may_be_short && is_short => Seen::Torn,
                None => panic!("{question:?} is told otherwise: {now:?}, not {before:?}"),
            }
        });
        of_each.max().unwrap()
    }
}

/// What was told before a bit was another one.
struct Before {
    whole: Told,
    without_last_commit: Told,
}

/// Says in which round a test has failed.
struct Words<'a>(&'a Flip);

impl Drop for Words<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            figures(&format!("in the round of {:?}", self.0));
        }
    }
}

/// What there is to be seen in an answer, now that a bit is another one.
fn seen(question: &[String], before: &Done, now: &Done) -> Option<Seen> {
    let words = &now.stderr;
    assert!(!words.contains("panicked"), "{question:?}: {now:?}");
    if now == before {
        return Some(Seen::Unchanged);
    }
    if now.code == 1 && is_told_damage(words) {
        return Some(Seen::RequestRefused);
    }
    let is_told_missing = question[0] == "logs" && words.contains("no longer kept");
    (is_told_missing && has_one_hole(&before.stdout, &now.stdout)).then_some(Seen::Missing)
}

fn is_told_damage(words: &str) -> bool {
    ["damaged", "the store's database", "written by a later version"].iter().any(|told| words.contains(told))
}

/// Whether it is the whole without something in the middle, or at an end.
fn has_one_hole(whole: &str, part: &str) -> bool {
    let same = |(one, other): &(u8, u8)| one == other;
    let begins = whole.bytes().zip(part.bytes()).take_while(same).count();
    let ends = whole.bytes().rev().zip(part.bytes().rev()).take_while(same).count();
    part.len() < whole.len() && begins + ends >= part.len()
}

#[test]
fn a_flipped_bit_is_told_or_changes_nothing() {
    let seed = number("CLUSTERCTL_SEED").unwrap_or(1);
    let flips = number("CLUSTERCTL_FLIPS").unwrap_or(3);
    let mut dice = Dice(seed);
    let lived = Lived::new();
    let before = lived.before();
    for (question, told) in &lived.told {
        assert_eq!(&before.whole[question], told, "{question:?}: a kill is no damage");
    }
    for (question, told) in &before.without_last_commit {
        let is_its_token = question[0] == "token" || question[0] == "audit";
        assert_eq!(told != &before.whole[question], is_its_token, "{question:?}: {told:?}");
    }
    let mut unchanged: u64 = 0;

    for kind in [LOG, DATABASE, OUTPUT] {
        let mut counts = BTreeMap::new();
        let mut found = 0;
        for _ in 0..flips {
            let (seen, is_found) = lived.round(&before, kind, &mut dice);
            *counts.entry(seen).or_insert(0) += 1;
            found += u64::from(is_found);
        }
        let count = |seen| counts.get(seen).copied().unwrap_or(0);
        unchanged += count(&Seen::Unchanged);
        let counts: Vec<_> =
            Seen::ALL.iter().map(|(seen, words)| format!("{} {words}", count(seen))).collect();
        figures(&format!(
            "flipped bits of {kind}: seed {seed}, {flips} rounds: {}; pool check found {found}",
            counts.join(", ")
        ));
    }
    assert!(unchanged < 2 * flips, "{unchanged} of {} flips hit nothing", 3 * flips);
}
