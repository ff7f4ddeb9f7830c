//! Settings that go along with every later line: a directory, and variables.

use std::path::PathBuf;

use super::super::error::Failure;
use crate::core::job::JobSpec;
use crate::say::tell;

/// What `:cd` and `:env` have set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sticky {
    directory: Option<PathBuf>,
    variables: Vec<(String, String)>,
}

impl Sticky {
    /// Whether lines start in a directory that was chosen.
    pub(super) fn has_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// `:cd`: an absolute directory, one below the present one, or none for a fresh one each time.
    pub(super) fn change_directory(&mut self, to: Option<PathBuf>) -> Result<(), Failure> {
        self.directory = match (to, &self.directory) {
            (None, _) => None,
            (Some(path), _) if path.is_absolute() => Some(path),
            (Some(path), Some(base)) => Some(base.join(path)),
            (Some(path), None) => {
                return Err(Failure::new("usage", format!("{} is not absolute", path.display()))
                    .hint(":cd /a/directory/of/the/worker"));
            }
        };
        match &self.directory {
            None => tell!("jobs now start in a new, empty directory"),
            Some(path) => tell!("jobs now start in {}", path.display()),
        }
        Ok(())
    }

    /// `:env`: sets variables, unsets one, or lists them.
    pub(super) fn change_variables(&mut self, unset: Option<&str>, pairs: &[String]) -> Result<(), Failure> {
        if let Some(name) = unset {
            self.variables.retain(|(known, _)| known != name);
        }
        for pair in pairs {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::new("usage", format!("\"{pair}\" is not K=V")))?;
            self.variables.retain(|(known, _)| known != name);
            self.variables.push((name.to_owned(), value.to_owned()));
        }
        if unset.is_none() && pairs.is_empty() {
            self.variables.iter().for_each(|(name, value)| tell!("{name}={value}"));
        }
        Ok(())
    }

    /// Goes along with a job, under what the job itself says.
    pub(super) fn apply(&self, spec: &mut JobSpec) {
        let sticky = self
            .variables
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()));
        spec.env = sticky.chain(std::mem::take(&mut spec.env)).collect();
        if spec.cwd.is_none() {
            spec.cwd = self.directory.as_ref().map(|path| path.as_os_str().as_encoded_bytes().to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_says_itself_goes_over_what_is_sticky() {
        let mut sticky = Sticky::default();
        sticky.change_variables(None, &["A=1".into(), "B=2".into()]).unwrap();
        sticky.change_directory(Some("/data".into())).unwrap();
        sticky.change_directory(Some("deep".into())).unwrap();
        let mut spec = JobSpec::new("true");
        spec.env = vec![(b"B".to_vec(), b"3".to_vec())];

        sticky.apply(&mut spec);

        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{}={}", text(k), text(v))).collect();
        assert_eq!(env, ["A=1", "B=2", "B=3"]);
        assert_eq!(spec.cwd, Some(b"/data/deep".to_vec()));
    }

    #[test]
    fn a_relative_directory_needs_one_to_be_relative_to() {
        assert!(Sticky::default().change_directory(Some("deep".into())).is_err());
    }
}
