//! What is submitted: the immutable request of a job, checked once where it enters.
//!
//! Nothing here knows where or when a job runs; the script is never looked at.

use std::time::Duration;

use super::id::Name;
use super::label::Constraint;
use super::limits;

/// What an argument, or the name or value of a variable, takes beside its own bytes wherever it is sent: a pointer, one
/// more if it lies far from that, and the rest of its last eight bytes. As in the kernel's own count, many are not little.
const WORD_BYTES: usize = 24;

/// The immutable request in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// Bash source, byte for byte.
    pub script: Vec<u8>,
    /// `$1 $2 …` of the script; `$0` is `bash`.
    pub args: Vec<Vec<u8>>,
    /// A name that people may give it; need not be unique.
    pub name: Option<Name>,
    /// Which workers may run it.
    pub constraint: Constraint,
    /// Variables that are set in its environment, in order, after the worker's own.
    pub env: Vec<Variable>,
    /// Variables whose values are sealed as long as they wait, and erased when the job has ended. Set after `env`.
    pub secrets: Vec<Variable>,
    /// The directory that it starts in, absolute on the worker, instead of its workspace.
    pub cwd: Option<Vec<u8>>,
    /// Ends each attempt that runs longer.
    pub timeout: Option<Duration>,
    /// Further attempts that are allowed after `Lost` or `SpawnFailed`.
    pub retries: u32,
    /// −100…100, higher first.
    pub priority: i8,
    /// Instead of `Timing::lost_after`.
    pub lost_after: Option<Duration>,
    /// The tasks of an array, or none for a plain job.
    pub array: Option<Array>,
}

/// An environment variable: its name and its value.
pub type Variable = (Vec<u8>, Vec<u8>);

/// The tasks of an array: a sorted list of inclusive ranges without overlap, and how many may run at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    ranges: Vec<(u32, u32)>,
    /// At most so many tasks at a time, as in `1-1000%8`.
    pub at_once: Option<u32>,
}

/// Why a text is no array.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no array ({why}); write it as 1-1000, 1-5,8,10-12 or 1-1000%8")]
pub struct BadArray {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Array {
    /// Sorts and joins ranges (inclusive at both ends); refuses none at all, a range that runs backwards, and overlaps.
    pub fn new(mut ranges: Vec<(u32, u32)>, at_once: Option<u32>) -> Result<Self, &'static str> {
        if ranges.is_empty() {
            return Err("it has no task");
        }
        if ranges.iter().any(|(first, last)| first > last) {
            return Err("a range runs backwards");
        }
        if at_once == Some(0) {
            return Err("none may run at a time");
        }
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if *end >= first => return Err("an index is named twice"),
                Some((_, end)) if *end + 1 == first => *end = last,
                _ => joined.push((first, last)),
            }
        }
        if joined.len() > limits::ARRAY_RANGES_MAX {
            return Err("more than 1000 ranges");
        }
        Ok(Self { ranges: joined, at_once })
    }

    /// Reads `1-1000`, `5`, `1-5,8` and any of them with `%8` behind it.
    pub fn parse(text: &str) -> Result<Self, BadArray> {
        let bad = |why| BadArray { text: text.to_owned(), why };
        let (list, at_once) = match text.split_once('%') {
            None => (text, None),
            Some((list, n)) => (list, Some(n.parse().map_err(|_| bad("what follows % is no number"))?)),
        };
        let number = |n: &str| n.trim().parse::<u32>().map_err(|_| bad("an index is no number below 2^32"));
        let ranges = list
            .split(',')
            .map(|range| match range.split_once('-') {
                None => number(range).map(|n| (n, n)),
                Some((first, last)) => Ok((number(first)?, number(last)?)),
            })
            .collect::<Result<Vec<_>, BadArray>>()?;
        Self::new(ranges, at_once).map_err(bad)
    }

    /// The ranges, sorted, inclusive at both ends.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    /// How many tasks there are.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// Never: an array has at least one task.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl std::fmt::Display for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        self.at_once.map_or(Ok(()), |n| write!(f, "%{n}"))
    }
}

/// Why a request is refused before anything else is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSpec {
    /// Script, arguments and environment are too large; holds how large, in bytes.
    #[error("script and environment are {0} bytes, the limit is 1 MiB")]
    TooBig(usize),
    /// Bash takes no NUL byte in a script, an argument or a variable.
    #[error("{0} contains a NUL byte, which bash cannot take")]
    Nul(&'static str),
    /// Linux hands on no longer one to a program.
    #[error("{0} is longer than {max} bytes, which no program can be given", max = limits::WORD_BYTES_MAX)]
    Long(&'static str),
    /// A variable's name is empty, has a `=` in it, or is one that clusterctl sets itself.
    #[error("\"{0}\" cannot be set as an environment variable of a job")]
    Variable(String),
    /// A directory must be absolute, since the job starts in a fresh one.
    #[error("the directory \"{0}\" is not absolute")]
    RelativeDirectory(String),
    /// A priority out of range.
    #[error("priority {0} is not in -100 to 100")]
    Priority(i8),
    /// Too many retries.
    #[error("{0} retries are more than the limit of 1000")]
    Retries(u32),
    /// An empty script would do nothing.
    #[error("the script is empty")]
    Empty,
}

impl JobSpec {
    /// A job that runs `script` anywhere, once.
    pub fn new(script: impl Into<Vec<u8>>) -> Self {
        Self {
            script: script.into(),
            args: Vec::new(),
            name: None,
            constraint: Constraint::default(),
            env: Vec::new(),
            secrets: Vec::new(),
            cwd: None,
            timeout: None,
            retries: 0,
            priority: 0,
            lost_after: None,
            array: None,
        }
    }

    /// Whether a task has one of these indices, inclusive at both ends; a plain job's has 0.
    pub fn has_task_in(&self, first: u32, last: u32) -> bool {
        let ranges = self.array.as_ref().map_or(&[(0, 0)][..], Array::ranges);
        ranges.iter().any(|(from, to)| first <= last && *from <= last && first <= *to)
    }

    /// Bytes of script, arguments and environment together, with what each word takes beside its own.
    pub fn bytes(&self) -> usize {
        let args = self.args.iter().map(|arg| arg.len() + WORD_BYTES);
        let env = self.env.iter().chain(&self.secrets);
        let env = env.map(|(name, value)| name.len() + value.len() + 2 * WORD_BYTES);
        self.script.len() + args.sum::<usize>() + env.sum::<usize>()
    }

    /// Checks the values of secrets, and what all of it takes. Called where a request enters: later they are sealed, and
    /// other bytes.
    pub fn check_entering(&self) -> Result<(), BadSpec> {
        self.check()?;
        let bytes = self.bytes();
        if bytes > limits::SPEC_BYTES_MAX {
            return Err(BadSpec::TooBig(bytes));
        }
        self.secrets.iter().try_for_each(|(name, value)| check_value(name, value))
    }

    /// Checks what the types do not say, and what holds for a request as long as it is remembered.
    pub fn check(&self) -> Result<(), BadSpec> {
        if self.script.iter().all(u8::is_ascii_whitespace) {
            return Err(BadSpec::Empty);
        }
        if self.script.contains(&0) {
            return Err(BadSpec::Nul("the script"));
        }
        if self.args.iter().any(|arg| arg.contains(&0)) {
            return Err(BadSpec::Nul("an argument"));
        }
        if self.args.iter().any(|arg| arg.len() > limits::WORD_BYTES_MAX) {
            return Err(BadSpec::Long("an argument"));
        }
        for (name, _) in self.env.iter().chain(&self.secrets) {
            let reserved = matches!(
                name.as_slice(),
                b"CLUSTERCTL_JOB"
                    | b"CLUSTERCTL_TASK"
                    | b"CLUSTERCTL_ATTEMPT"
                    | b"CLUSTERCTL_FENCE"
                    | b"CLUSTERCTL_WORKER"
            );
            if name.is_empty() || reserved || name.contains(&b'=') || name.contains(&0) {
                return Err(BadSpec::Variable(String::from_utf8_lossy(name).into_owned()));
            }
        }
        self.env.iter().try_for_each(|(name, value)| check_value(name, value))?;
        match &self.cwd {
            Some(cwd) if cwd.first() != Some(&b'/') => {
                return Err(BadSpec::RelativeDirectory(String::from_utf8_lossy(cwd).into_owned()));
            }
            Some(cwd) if cwd.contains(&0) => return Err(BadSpec::Nul("the directory")),
            _ => {}
        }
        if !(-100..=100).contains(&self.priority) {
            return Err(BadSpec::Priority(self.priority));
        }
        if self.retries > limits::RETRIES_MAX {
            return Err(BadSpec::Retries(self.retries));
        }
        Ok(())
    }

    /// Tells which script it was to whoever has the script: BLAKE3, in hexadecimal.
    pub fn script_hash(&self) -> String {
        blake3::hash(&self.script).to_hex().to_string()
    }

    /// Tells specs apart without keeping them: BLAKE3 of all fields, of secrets the names alone.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(&self.script);
        self.args.iter().for_each(|arg| field(arg));
        field(self.name.as_ref().map_or("", Name::as_str).as_bytes());
        field(self.constraint.to_string().as_bytes());
        for (name, value) in &self.env {
            field(name);
            field(value);
        }
        self.secrets.iter().for_each(|(name, _)| field(name));
        field(self.cwd.as_deref().unwrap_or_default());
        let rest = (self.timeout, self.retries, self.priority, self.lost_after, &self.array, self.env.len());
        field(&(self.secrets.len() as u64).to_le_bytes());
        field(format!("{rest:?}").as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The same with nothing in its secrets.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let secrets = self.secrets.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        Self { secrets, ..self.clone() }
    }

    /// How many tasks the job has.
    pub fn task_count(&self) -> u64 {
        self.array.as_ref().map_or(1, Array::len)
    }
}

fn check_value(name: &[u8], value: &[u8]) -> Result<(), BadSpec> {
    if value.contains(&0) {
        return Err(BadSpec::Nul("a variable"));
    }
    if name.len() + value.len() + 1 > limits::WORD_BYTES_MAX {
        return Err(BadSpec::Long("a variable"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_read_back_as_they_are_written() {
        for text in ["0", "1-1000", "1-5,8,10-12", "1-1000%8"] {
            assert_eq!(Array::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Array::parse("4-6,1-3").unwrap().to_string(), "1-6");
        assert_eq!(Array::parse("0-4294967295").unwrap().len(), 1 << 32);
    }

    #[test]
    fn arrays_that_name_an_index_twice_or_none_are_refused() {
        for text in ["", "5-1", "1-5,3", "1,1", "a", "1-2%0", "1-2%", "-1", "4294967296"] {
            assert!(Array::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn specs_that_bash_could_not_take_are_refused() {
        let mut spec = JobSpec::new("echo a\0b");
        assert_eq!(spec.check(), Err(BadSpec::Nul("the script")));

        let mut long = JobSpec::new("true");
        long.args = vec![vec![b'x'; limits::WORD_BYTES_MAX]];
        assert_eq!(long.check(), Ok(()));
        long.args[0].push(b'x');
        assert_eq!(long.check(), Err(BadSpec::Long("an argument")));

        spec.script = b" \n".to_vec();
        assert_eq!(spec.check(), Err(BadSpec::Empty));

        spec.script = vec![b'x'; limits::SPEC_BYTES_MAX + 1];
        assert_eq!(spec.check_entering(), Err(BadSpec::TooBig(limits::SPEC_BYTES_MAX + 1)));

        spec.script = b"true".to_vec();
        spec.env = vec![(b"CLUSTERCTL_FENCE".to_vec(), b"x".to_vec())];
        assert!(matches!(spec.check(), Err(BadSpec::Variable(_))));
    }

    #[test]
    fn secrets_are_checked_where_they_enter_and_may_be_any_bytes_when_they_are_sealed() {
        let mut spec = JobSpec::new("true");
        spec.secrets = vec![(b"KEY".to_vec(), b"\0sealed".to_vec())];

        assert_eq!(spec.check(), Ok(()));
        assert_eq!(spec.check_entering(), Err(BadSpec::Nul("a variable")));
        assert_eq!(spec.digest(), spec.without_secrets().digest());
        spec.secrets[0].0 = b"CLUSTERCTL_JOB".to_vec();
        assert!(matches!(spec.check(), Err(BadSpec::Variable(_))));
    }
}
