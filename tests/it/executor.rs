//! An executor alone, spoken to as its agent speaks to it: what waits for a slot, what may not begin, what is given back.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clusterctl::core::attempt::{FromExecutor, Launch, ToExecutor};
use clusterctl::core::id::{AttemptNumber, Fence, JobId, JobNonce, TaskId};
use clusterctl::core::time::Timestamp;
use clusterctl::process::clock;
use clusterctl::wire::executor as wire;

/// A word that does not come within this never comes.
const WITHIN: Duration = Duration::from_secs(20);

/// An executor with a directory of its own, and the line to it.
struct Executor {
    directory: tempfile::TempDir,
    process: Child,
    line: UnixStream,
    inbox: Vec<u8>,
}

impl Executor {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_clusterctl"))
            .arg("executor")
            .arg("--directory")
            .arg(directory.path().join("executor"))
            .arg("--work-directory")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        let mut line = UnixStream::connect(directory.path().join("executor/executor.sock")).unwrap();
        line.set_read_timeout(Some(WITHIN)).unwrap();
        line.write_all(&wire::hello()).unwrap();
        let mut executor = Self { directory, process, line, inbox: Vec::new() };
        let FromExecutor::Welcome { held, .. } = executor.hear() else { panic!("it says welcome first") };
        assert_eq!(held, []);
        executor
    }

    fn tell(&mut self, word: &ToExecutor) {
        self.line.write_all(&wire::encode_to(word)).unwrap();
    }

    fn hear(&mut self) -> FromExecutor {
        loop {
            if let Some((body, length)) = wire::next_frame(&self.inbox).unwrap() {
                let word = wire::decode_from(body).unwrap();
                self.inbox.drain(..length);
                return word;
            }
            let mut bytes = [0; 4096];
            let count = self.line.read(&mut bytes).unwrap();
            assert!(count > 0, "the executor goes on");
            self.inbox.extend(&bytes[..count]);
        }
    }

    /// So many slots; what waits may begin until so long from now.
    fn begins(&mut self, slots: u32, until: Timestamp) {
        self.tell(&ToExecutor::Starts { slots, until });
    }

    fn start_job(&mut self, n: u32, script: &str) {
        self.start_by(1, n, script);
    }

    fn start_by(&mut self, dial: u64, n: u32, script: &str) {
        self.tell(&ToExecutor::Start(Launch {
            fence: fence(n),
            dial,
            script: script.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            timeout: None,
            lease_until: None,
            worker: "w1".into(),
        }));
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn ends(&mut self) -> Fence {
        match self.hear() {
            FromExecutor::Ended(end) => end.fence,
            other => panic!("{other:?} instead of an end"),
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Its keepers end what still runs.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn fence(n: u32) -> Fence {
    Fence { nonce: JobNonce(7), task: TaskId { job: JobId(1), index: n }, attempt: AttemptNumber(1) }
}

fn later() -> Timestamp {
    clock::boottime() + Duration::from_secs(3600)
}

#[test]
fn what_waits_for_a_slot_begins_when_one_is_free_and_not_before() {
    let mut executor = Executor::start();
    let (gate, seen) = (executor.path("gate"), executor.path("seen"));
    executor.begins(1, later());
    executor.start_job(1, &format!("until [ -e {gate} ]; do sleep 0.01; done; [ ! -e {seen} ]"));
    executor.start_job(2, &format!("touch {seen}"));
    assert_eq!(executor.hear(), FromExecutor::Started(fence(1)));

    std::fs::write(&gate, "").unwrap();

    let FromExecutor::Ended(first) = executor.hear() else {
        panic!("the first ends before the second begins")
    };
    assert_eq!((first.fence, first.outcome.is_success()), (fence(1), true));
    assert_eq!(executor.hear(), FromExecutor::Started(fence(2)));
    assert_eq!(executor.ends(), fence(2));
}

#[test]
fn what_waits_does_not_begin_once_the_pool_was_not_heard_for_too_long() {
    let mut executor = Executor::start();
    let seen = executor.path("seen");
    executor.begins(8, clock::boottime());
    executor.tell(&ToExecutor::Dial(1));
    executor.start_job(1, &format!("touch {seen}"));
    // When this is refused, whatever may begin has begun.
    executor.start_by(0, 9, "true");
    assert_eq!(executor.hear(), FromExecutor::Refused(fence(9)));

    executor.tell(&ToExecutor::TakeBack(fence(1)));

    assert_eq!(executor.hear(), FromExecutor::Refused(fence(1)));
    assert!(!std::path::Path::new(&seen).exists());
}

#[test]
fn what_waits_begins_when_the_pool_is_heard_again() {
    let mut executor = Executor::start();
    executor.begins(8, clock::boottime());
    executor.start_job(1, "true");

    executor.begins(8, later());

    assert_eq!(executor.hear(), FromExecutor::Started(fence(1)));
    assert_eq!(executor.ends(), fence(1));
}

#[test]
fn what_waits_is_given_back_what_runs_is_not_and_what_was_given_back_may_come_again() {
    let mut executor = Executor::start();
    let gate = executor.path("gate");
    executor.begins(1, later());
    executor.start_job(1, &format!("until [ -e {gate} ]; do sleep 0.01; done"));
    executor.start_job(2, "true");
    assert_eq!(executor.hear(), FromExecutor::Started(fence(1)));

    executor.tell(&ToExecutor::TakeBack(fence(1)));
    executor.tell(&ToExecutor::TakeBack(fence(2)));
    assert_eq!(executor.hear(), FromExecutor::Refused(fence(2)));

    std::fs::write(&gate, "").unwrap();
    assert_eq!(executor.ends(), fence(1));
    executor.start_job(3, "true");
    assert_eq!(executor.hear(), FromExecutor::Started(fence(3)));
    assert_eq!(executor.ends(), fence(3));
    executor.start_job(2, "true");
    assert_eq!(executor.hear(), FromExecutor::Started(fence(2)));
    assert_eq!(executor.ends(), fence(2));
}
