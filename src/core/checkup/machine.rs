//! What was found on a machine, and what that means: keys and state directories, bash, the history, the directory of
//! workspaces, and what ends processes.

use super::Check;
use crate::core::size::size;

/// A file or directory, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is nothing.
    Missing,
    /// It cannot be looked at, in the operating system's words.
    Unreadable(String),
    /// It is there.
    There(Entry),
}

/// A file or directory that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits.
    pub mode: u32,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This user's.
    Us,
    /// Another user's, by number.
    Other(u32),
}

/// Who has to do with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Nobody but its user: there are keys and output in it.
    OwnerOnly,
    /// Others may look: what is in it keeps them out by itself.
    OthersMayLook,
}

/// Files with keys: this user's, and nobody else's to read. `None` says that this one is as it should be.
fn key_fault(path: &str, found: &Found) -> Option<Check> {
    match found {
        Found::Missing => None,
        Found::Unreadable(reason) => {
            Some(Check::fail("keys", format!("{path}: {reason}"), format!("See: ls -l {path}")))
        }
        Found::There(Entry { owner: Owner::Other(uid), .. }) => Some(Check::fail(
            "keys",
            format!("{path} belongs to user {uid}"),
            format!("Take it: sudo chown $USER {path}"),
        )),
        Found::There(Entry { mode, owner: Owner::Us }) if mode & 0o077 != 0 => Some(Check::fail(
            "keys",
            format!("{path} can be read by others (mode {:04o})", mode & 0o7777),
            format!("Shut it: chmod 600 {path}; whoever has seen it can pose as its holder"),
        )),
        Found::There(_) => None,
    }
}

/// Key files, those that are there.
pub fn keys(files: &[(String, Found)]) -> Vec<Check> {
    let faults: Vec<Check> = files.iter().filter_map(|(path, found)| key_fault(path, found)).collect();
    if !faults.is_empty() {
        return faults;
    }
    let there: Vec<&str> = files
        .iter()
        .filter(|(_, found)| matches!(found, Found::There(_)))
        .map(|(path, _)| path.as_str())
        .collect();
    vec![match there.as_slice() {
        [] => Check::ok("keys", "none yet; one is made when it is needed"),
        [one] => Check::ok("keys", format!("{one} is this user's alone")),
        [first, more @ ..] => {
            Check::ok("keys", format!("{first} and {} more are this user's alone", more.len()))
        }
    }]
}

fn directory_fault(path: &str, found: &Found, privacy: Privacy) -> Option<Check> {
    let shut = format!("Shut it: chmod go-rwx {path}");
    match found {
        Found::Missing => None,
        Found::Unreadable(reason) => Some(Check::fail(
            "state",
            format!("{path}: {reason}"),
            format!("See: ls -ld {path}; or --state DIR"),
        )),
        Found::There(Entry { owner: Owner::Other(uid), .. }) => Some(Check::fail(
            "state",
            format!("{path} belongs to user {uid}"),
            "Use another: --state DIR".to_owned(),
        )),
        Found::There(Entry { mode, owner: Owner::Us }) if mode & 0o022 != 0 => Some(Check::fail(
            "state",
            format!("others can change what lies in {path} (mode {:04o})", mode & 0o7777),
            shut,
        )),
        Found::There(Entry { mode, owner: Owner::Us })
            if mode & 0o055 != 0 && privacy == Privacy::OwnerOnly =>
        {
            Some(Check::warn(
                "state",
                format!("others can look into {path} (mode {:04o})", mode & 0o7777),
                shut,
            ))
        }
        Found::There(_) => None,
    }
}

/// The directory of all state, and those in it.
pub fn state(root: (&str, &Found), below: &[(String, Found)], writable: Result<(), String>) -> Vec<Check> {
    let mut faults: Vec<Check> =
        directory_fault(root.0, root.1, Privacy::OthersMayLook).into_iter().collect();
    faults.extend(below.iter().filter_map(|(path, found)| directory_fault(path, found, Privacy::OwnerOnly)));
    if let Err(reason) = writable {
        let words = format!("nothing can be written below {}: {reason}", root.0);
        faults.push(Check::fail("state", words, "Use another: --state DIR"));
    }
    if faults.is_empty() {
        let words = match root.1 {
            Found::Missing => format!("{} will be made", root.0),
            Found::Unreadable(_) | Found::There(_) => format!("{} can be written by this user alone", root.0),
        };
        faults.push(Check::ok("state", words));
    }
    faults
}

/// Whether bash is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BashFor {
    /// Jobs run here.
    Jobs,
    /// A prompt asks it whether a line is complete.
    Prompt,
}

/// `/bin/bash`, which runs jobs.
pub fn bash(found: Result<(), String>, needed: BashFor) -> Check {
    let install = "Install bash with this system's packages";
    match (found, needed) {
        (Ok(()), _) => Check::ok("bash", "/bin/bash is there"),
        (Err(reason), BashFor::Jobs) => {
            Check::fail("bash", format!("no job can run here: /bin/bash: {reason}"), install)
        }
        (Err(reason), BashFor::Prompt) => Check::warn(
            "bash",
            format!("the prompt cannot tell whether a line is complete: /bin/bash: {reason}"),
            install,
        ),
    }
}

/// The prompt's history: kept if it can be, and nobody else's to read.
pub fn history(path: Option<&str>, found: &Found, writable: Result<(), String>) -> Check {
    let Some(path) = path else {
        return Check::warn("history", "no home directory: the prompt's history is not kept", "Set HOME");
    };
    match (found, writable) {
        (_, Err(reason)) => Check::warn(
            "history",
            format!("{path} cannot be written: {reason}"),
            "Make it writable, or the prompt forgets what was typed",
        ),
        (Found::There(Entry { mode, .. }), Ok(())) if mode & 0o077 != 0 => Check::warn(
            "history",
            format!("others can read what was typed, in {path} (mode {:04o})", mode & 0o7777),
            format!("Shut it: chmod 600 {path}"),
        ),
        (Found::There(_) | Found::Missing | Found::Unreadable(_), Ok(())) => {
            Check::ok("history", format!("{path} can be written"))
        }
    }
}

/// The directory below which workspaces are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkPlace {
    /// Whether a workspace could be made and written to, by what the operating system says.
    pub tried: Result<(), String>,
    /// Whether programs in it can be run.
    pub programs: Programs,
    /// Space for an ordinary user, in bytes; none where that is not known.
    pub free_bytes: Option<u64>,
    /// Files that can be made; none where that is not counted.
    pub free_files: Option<u64>,
}

/// Whether programs on a file system can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// They can.
    Run,
    /// Mounted `noexec`.
    Refused,
}

/// With less space than this no job gets far.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// With less than this somebody should make room.
const FREE_BYTES_LOW: u64 = 1 << 30;
/// A job unpacks as many files at once.
const FREE_FILES_LOW: u64 = 10_000;

/// Whether jobs can work there.
pub fn work(path: &str, place: &WorkPlace) -> Vec<Check> {
    let another = "Use another: --work-dir DIR";
    let room = format!("Make room in {path}, or use another: --work-dir DIR");
    if let Err(reason) = &place.tried {
        return vec![Check::fail("work", format!("no workspace can be made in {path}: {reason}"), another)];
    }
    let mut faults = Vec::new();
    match place.free_bytes {
        Some(free) if free < FREE_BYTES_MIN => {
            faults.push(Check::fail("work", format!("{path} is full: {} free", size(free)), room.clone()));
        }
        Some(free) if free < FREE_BYTES_LOW => {
            faults.push(Check::warn(
                "work",
                format!("{path} is nearly full: {} free", size(free)),
                room.clone(),
            ));
        }
        Some(_) | None => {}
    }
    match place.free_files {
        Some(0) => faults.push(Check::fail("work", format!("{path} has no room for another file"), room)),
        Some(free) if free < FREE_FILES_LOW => {
            faults.push(Check::warn("work", format!("{path} has room for {free} more files"), room));
        }
        Some(_) | None => {}
    }
    if place.programs == Programs::Refused {
        let words = format!("{path} is mounted noexec: jobs cannot run programs that they make there");
        faults.push(Check::warn("work", words, another));
    }
    if faults.is_empty() {
        let free = place.free_bytes.map_or_else(String::new, |free| format!(", {} free", size(free)));
        faults.push(Check::ok("work", format!("{path} can be written{free}")));
    }
    faults
}

/// Means by which a machine lets a job's processes be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Means {
    /// A keeper can inherit what loses its parent.
    pub reaper: Result<(), String>,
    /// A process can be held by a descriptor.
    pub descriptors: Result<(), String>,
    /// The kernel lists a process's children.
    pub children: Children,
    /// The control group (version 2) of this user, if there is one that this user may divide.
    pub group: Option<String>,
}

/// How a process's children are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// The kernel lists them.
    Listed,
    /// Every process is asked for its parent.
    Searched,
}

/// What ends a job's processes, and whether it is all there.
pub fn ending(means: &Means) -> Check {
    let kernel = "Use Linux 5.4 or newer, outside of a sandbox that forbids it";
    if let Err(reason) = &means.reaper {
        let words = format!("what a job leaves behind cannot be found: no child sub-reaper ({reason})");
        return Check::fail("ending", words, kernel);
    }
    if let Err(reason) = &means.descriptors {
        let words = format!("no job can be started: no descriptors of processes ({reason})");
        return Check::fail("ending", words, kernel);
    }
    let group = match &means.group {
        Some(path) => format!("executors get a control group of their own below {path}"),
        None => {
            "no control group can be made, so processes may stay if all of ours are killed at once".to_owned()
        }
    };
    match means.children {
        Children::Listed => {
            Check::ok("ending", format!("child sub-reaper, which leaves no process; {group}"))
        }
        Children::Searched => Check::warn(
            "ending",
            "child sub-reaper, and slowly: the kernel does not list a process's children",
            "Use a kernel with CONFIG_PROC_CHILDREN, and mount /proc",
        ),
    }
}

/// Who jobs run as.
pub fn user(name: &str, uid: u32) -> Check {
    if uid == 0 {
        return Check::warn("user", "jobs would run as root", "Use: worker join --run-as USER");
    }
    Check::ok("user", format!("jobs run as {name}"))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn there(mode: u32) -> Found {
        Found::There(Entry { mode, owner: Owner::Us })
    }

    fn verdicts(checks: &[Check]) -> Vec<Verdict> {
        assert!(
            checks.iter().all(|check| check.remedy.is_some() == (check.verdict != Verdict::Ok)),
            "{checks:?}"
        );
        checks.iter().map(|check| check.verdict).collect()
    }

    #[test]
    fn a_key_that_others_can_read_fails() {
        let of = |found| verdicts(&keys(&[("/k".to_owned(), found)]));

        assert_eq!(of(there(0o600)), [Verdict::Ok]);
        assert_eq!(of(Found::Missing), [Verdict::Ok]);
        for bad in [there(0o640), there(0o604), Found::Unreadable("i/o error".into())] {
            assert_eq!(of(bad), [Verdict::Fail]);
        }
        assert_eq!(of(Found::There(Entry { mode: 0o600, owner: Owner::Other(7) })), [Verdict::Fail]);
        let two = keys(&[("/a".to_owned(), there(0o600)), ("/b".to_owned(), there(0o644))]);
        assert_eq!((two.len(), two[0].words.as_str()), (1, "/b can be read by others (mode 0644)"));
    }

    #[test]
    fn state_that_others_can_change_fails_and_what_they_can_look_into_warns() {
        let of = |root, pool| verdicts(&state(("/s", &root), &[("/s/lab".to_owned(), pool)], Ok(())));

        assert_eq!(of(there(0o755), there(0o700)), [Verdict::Ok]);
        assert_eq!(of(Found::Missing, Found::Missing), [Verdict::Ok]);
        assert_eq!(of(there(0o775), there(0o700)), [Verdict::Fail]);
        assert_eq!(of(there(0o700), there(0o755)), [Verdict::Warn]);
        assert_eq!(of(there(0o777), there(0o702)), [Verdict::Fail, Verdict::Fail]);
        let other = Found::There(Entry { mode: 0o700, owner: Owner::Other(7) });
        assert_eq!(of(there(0o700), other), [Verdict::Fail]);
        let shut = state(("/s", &there(0o700)), &[], Err("read-only file system".into()));
        assert_eq!(verdicts(&shut), [Verdict::Fail]);
    }

    #[test]
    fn without_bash_no_job_runs_and_a_prompt_works_worse() {
        let none = || Err("no such file or directory".to_owned());

        assert_eq!(bash(Ok(()), BashFor::Jobs).verdict, Verdict::Ok);
        assert_eq!(bash(none(), BashFor::Jobs).verdict, Verdict::Fail);
        assert_eq!(bash(none(), BashFor::Prompt).verdict, Verdict::Warn);
    }

    #[test]
    fn a_history_that_is_not_kept_or_not_private_warns() {
        let of = |found, writable| history(Some("/h"), &found, writable).verdict;

        assert_eq!(of(there(0o600), Ok(())), Verdict::Ok);
        assert_eq!(of(Found::Missing, Ok(())), Verdict::Ok);
        assert_eq!(of(there(0o644), Ok(())), Verdict::Warn);
        assert_eq!(of(Found::Missing, Err("it is a directory".into())), Verdict::Warn);
        assert_eq!(history(None, &Found::Missing, Ok(())).verdict, Verdict::Warn);
    }

    #[test]
    fn a_work_directory_that_is_shut_or_full_fails_and_one_that_is_noexec_warns() {
        let well = WorkPlace {
            tried: Ok(()),
            programs: Programs::Run,
            free_bytes: Some(50 << 30),
            free_files: Some(1 << 20),
        };
        let of = |place| verdicts(&work("/w", &place));

        assert_eq!(of(well.clone()), [Verdict::Ok]);
        assert_eq!(of(WorkPlace { free_bytes: None, free_files: None, ..well.clone() }), [Verdict::Ok]);
        assert_eq!(of(WorkPlace { tried: Err("permission denied".into()), ..well.clone() }), [Verdict::Fail]);
        assert_eq!(of(WorkPlace { free_bytes: Some(1 << 20), ..well.clone() }), [Verdict::Fail]);
        assert_eq!(of(WorkPlace { free_bytes: Some(500 << 20), ..well.clone() }), [Verdict::Warn]);
        assert_eq!(of(WorkPlace { free_files: Some(0), ..well.clone() }), [Verdict::Fail]);
        assert_eq!(of(WorkPlace { free_files: Some(9), ..well.clone() }), [Verdict::Warn]);
        assert_eq!(of(WorkPlace { programs: Programs::Refused, ..well }), [Verdict::Warn]);
    }

    #[test]
    fn means_of_ending_processes_that_are_missing_are_told() {
        let well = Means {
            reaper: Ok(()),
            descriptors: Ok(()),
            children: Children::Listed,
            group: Some("/g".into()),
        };
        let no = || Err("function not implemented".to_owned());

        assert!(ending(&well).words.contains("below /g"));
        assert_eq!(ending(&Means { group: None, ..well.clone() }).verdict, Verdict::Ok);
        assert_eq!(ending(&Means { children: Children::Searched, ..well.clone() }).verdict, Verdict::Warn);
        assert_eq!(ending(&Means { reaper: no(), ..well.clone() }).verdict, Verdict::Fail);
        assert_eq!(ending(&Means { descriptors: no(), ..well }).verdict, Verdict::Fail);
    }

    #[test]
    fn jobs_as_root_are_warned_of() {
        assert_eq!(user("root", 0).verdict, Verdict::Warn);
        assert_eq!(user("ann", 1000), Check::ok("user", "jobs run as ann"));
    }
}
