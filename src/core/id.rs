//! Names of things: small typed numbers, so that a job's id is never taken for a worker's.
//!
//! Nothing here knows what the named things are.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A job, numbered from 1 in the order of submission; never used again.
    JobId(u64)
}
id! {
    /// A worker's membership in a pool, bound to one key; numbered from 1, never used again.
    WorkerId(u64)
}
id! {
    /// One authenticated link, numbered from 1 since the pool's start.
    ConnectionId(u64)
}
id! {
    /// The number of the pool's start; guards appends to the store and registrations, nothing else.
    Epoch(u64)
}
id! {
    /// An execution of a task, numbered from 1.
    AttemptNumber(u32)
}
id! {
    /// Random at each submit: a restored backup that hands out an old job id again makes a different nonce.
    JobNonce(u64)
}
id! {
    /// Random at each start of an executor: attempts live exactly as long as the executor that owns them.
    Incarnation(u64)
}
id! {
    /// Identifies a token in lists and refusals; not secret.
    TokenId(u64)
}

/// One schedulable unit of a job. A plain job has one task, number 0; an array's tasks are numbered by their index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The job that the task belongs to.
    pub job: JobId,
    /// The task's index in its job.
    pub index: u32,
}

impl fmt::Display for TaskId {
    /// `42.7`; callers that know the job to be plain print the job's id alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.job, self.index)
    }
}

/// Names one attempt for ever: a report counts only if its fence *equals* the one that the pool has recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// Tells this job from another that had the same id before a backup was restored.
    pub nonce: JobNonce,
    /// What is executed.
    pub task: TaskId,
    /// Which execution it is.
    pub attempt: AttemptNumber,
}

impl fmt::Display for Fence {
    /// `42.7#1@9f3c…` with the nonce in hexadecimal: what a script finds in `CLUSTERCTL_FENCE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}@{:016x}", self.task, self.attempt, self.nonce.0)
    }
}

impl Fence {
    /// Reads one as it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let (task, rest) = text.split_once('#')?;
        let (job, index) = task.split_once('.')?;
        let (attempt, nonce) = rest.split_once('@')?;
        Some(Self {
            nonce: JobNonce(u64::from_str_radix(nonce, 16).ok()?),
            task: TaskId { job: JobId(job.parse().ok()?), index: index.parse().ok()? },
            attempt: AttemptNumber(attempt.parse().ok()?),
        })
    }
}

/// Chosen by a client for each submit, at random: the same id sent again is the same job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

/// Names the key of a job's secrets: made of owner and request, so that a request that comes twice has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretsId(pub [u8; 16]);

impl SecretsId {
    /// Of the job that this request of an owner makes.
    pub fn of(owner: &str, request: RequestId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&request.0);
        hasher.update(owner.as_bytes());
        Self(hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
    }
}

impl fmt::Display for SecretsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// SHA-256 of a key's SubjectPublicKeyInfo: what a peer has proved to hold, and the only thing that identifies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    /// `sha256:4b1f…` with all 64 hexadecimal digits; `{:.4}` shortens to the first and last four digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = data_encoding::HEXLOWER.encode(&self.0);
        match f.precision() {
            Some(digits) if digits < 32 => {
                write!(f, "sha256:{}…{}", &hex[..digits], &hex[hex.len() - digits..])
            }
            _ => write!(f, "sha256:{hex}"),
        }
    }
}

/// A name of a pool, worker, client or owner: 1 to 64 bytes of `[a-z0-9._-]`, not beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no name: 1 to 64 of a-z 0-9 . _ - and no dot in front")]
pub struct BadName(pub String);

impl Name {
    /// Accepts a text that is a name as it stands.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let fits = (1..=super::limits::NAME_BYTES_MAX).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        if fits { Ok(Self(text.to_owned())) } else { Err(BadName(text.to_owned())) }
    }

    /// Makes a name of any text, as of a host name: lower case, other characters become `-`.
    pub fn from_any(text: &str) -> Self {
        let mut name: String = text
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-') { c } else { '-' })
            .take(super::limits::NAME_BYTES_MAX)
            .collect();
        if name.is_empty() || name.starts_with('.') {
            name.insert(0, 'x');
            name.truncate(super::limits::NAME_BYTES_MAX);
        }
        Self(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_reads_as_task_attempt_nonce() {
        let fence = Fence {
            nonce: JobNonce(0xab),
            task: TaskId { job: JobId(42), index: 7 },
            attempt: AttemptNumber(2),
        };

        assert_eq!(fence.to_string(), "42.7#2@00000000000000ab");
        assert_eq!(Fence::parse(&fence.to_string()), Some(fence));
        assert_eq!(Fence::parse("42.7#2"), None);
    }

    #[test]
    fn any_text_makes_a_name_that_parses() {
        for text in ["", ".x", "Head Node", "ünï", &"a".repeat(200)] {
            let name = Name::from_any(text);
            assert_eq!(Name::parse(name.as_str()), Ok(name));
        }
    }

    #[test]
    fn names_with_a_path_in_them_are_refused() {
        for text in ["", "..", ".hidden", "a/b", "A", &"a".repeat(65)] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }
}
