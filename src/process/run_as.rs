//! `--run-as`: jobs of a worker that root starts run as another user, who can neither end, trace nor read what keeps them.

use std::ffi::CString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use nix::unistd::{self, Uid, User};

use crate::core::job::Variable;

/// The user as which jobs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUser {
    /// Its name.
    pub name: String,
    /// What the kernel knows it by.
    pub credentials: Credentials,
    home: PathBuf,
    shell: PathBuf,
}

/// A user and its groups, as the kernel knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
}

impl JobUser {
    /// The named user; none if this process is that user's already, so that nothing has to change.
    ///
    /// # Errors
    /// When there is no such user, or this process is not root's.
    pub fn find(name: &str) -> anyhow::Result<Option<Self>> {
        let Some(user) = User::from_name(name)? else { bail!("there is no user \"{name}\" on this machine") };
        if user.uid == Uid::current() {
            return Ok(None);
        }
        if !Uid::effective().is_root() {
            bail!("only root can run jobs as \"{name}\"");
        }
        let groups = unistd::getgrouplist(&CString::new(name)?, user.gid)
            .with_context(|| format!("cannot find the groups of \"{name}\""))?;
        let credentials = Credentials {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(unistd::Gid::as_raw).collect(),
        };
        Ok(Some(Self { name: name.to_owned(), credentials, home: user.dir, shell: user.shell }))
    }

    /// What its jobs find of it in their environment.
    pub(super) fn variables(&self) -> [Variable; 4] {
        use std::os::unix::ffi::OsStrExt;
        let path = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
        let variable = |name: &str, value: Vec<u8>| (name.as_bytes().to_vec(), value);
        [
            variable("HOME", path(&self.home)),
            variable("USER", self.name.clone().into_bytes()),
            variable("LOGNAME", self.name.clone().into_bytes()),
            variable("SHELL", path(&self.shell)),
        ]
    }
}

impl fmt::Display for Credentials {
    /// As a keeper is told: `uid:gid:group,group`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        write!(f, "{}:{}:{}", self.uid, self.gid, groups.join(","))
    }
}

impl FromStr for Credentials {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is no user:group:groups");
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        let [uid, gid, groups] = text.split(':').collect::<Vec<_>>().try_into().map_err(|_: Vec<_>| bad())?;
        let groups =
            groups.split(',').filter(|group| !group.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Self { uid: number(uid)?, gid: number(gid)?, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_read_back() {
        for groups in [vec![], vec![7], vec![1000, 27]] {
            let credentials = Credentials { uid: 1000, gid: 7, groups };
            assert_eq!(credentials.to_string().parse(), Ok(credentials));
        }
        assert!("1:2".parse::<Credentials>().is_err() && "1:2:x".parse::<Credentials>().is_err());
    }
}
