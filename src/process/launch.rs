//! From a launch to the words and the environment that bash is started with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::core::attempt::Launch;
use crate::core::job::Variable;

use super::run_as::JobUser;

/// The longest argument that Linux takes, in bytes, less its end mark.
const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;
/// Variables of the worker that a job finds; those that begin with `LC_` come as well.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ"];

/// The worker's own variables that every job finds.
pub(super) type Inherited = Vec<Variable>;

/// Those of this process, and over them those of the user as whom jobs run.
pub(super) fn inherited(run_as: Option<&JobUser>) -> Inherited {
    let wanted = |name: &OsString| {
        let name = name.as_bytes();
        INHERITED.iter().any(|wanted| wanted.as_bytes() == name) || name.starts_with(b"LC_")
    };
    std::env::vars_os()
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .chain(run_as.into_iter().flat_map(JobUser::variables))
        .collect()
}

/// The environment of an attempt: the worker's own, what clusterctl says, and what the job asks for, the last of a
/// name counting. Sorted by name.
pub(super) fn environment(launch: &Launch, inherited: &Inherited, workspace: &Path) -> Vec<Vec<u8>> {
    let workspace = workspace.as_os_str().as_bytes().to_vec();
    let fence = launch.fence;
    let ours = [
        ("TMPDIR", workspace.clone()),
        ("PWD", launch.cwd.clone().unwrap_or(workspace)),
        ("CLUSTERCTL_JOB", fence.task.job.to_string().into_bytes()),
        ("CLUSTERCTL_TASK", fence.task.index.to_string().into_bytes()),
        ("CLUSTERCTL_ATTEMPT", fence.attempt.to_string().into_bytes()),
        ("CLUSTERCTL_FENCE", fence.to_string().into_bytes()),
        ("CLUSTERCTL_WORKER", launch.worker.clone().into_bytes()),
    ];
    let mut environment: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    environment.extend(inherited.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
    environment.extend(ours.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())));
    environment.extend(launch.env.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
    environment.into_iter().map(|(name, value)| [name, b"=", value].concat()).collect()
}

/// The words of `/bin/bash -c -- SCRIPT bash ARGS…`; a script too long for an argument runs from a file, and finds that
/// file's name in `$0`.
pub(super) fn arguments(
    launch: &Launch,
    script_file: impl FnOnce(&[u8]) -> std::io::Result<PathBuf>,
) -> std::io::Result<Vec<Vec<u8>>> {
    let mut words = vec![b"bash".to_vec()];
    if launch.script.len() <= ARGUMENT_BYTES_MAX {
        // Without the dashes a script that begins with one would be read as options.
        words.extend([b"-c".to_vec(), b"--".to_vec(), launch.script.clone(), b"bash".to_vec()]);
    } else {
        words.extend([b"--".to_vec(), script_file(&launch.script)?.into_os_string().into_vec()]);
    }
    words.extend(launch.args.iter().cloned());
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Fence;

    fn launch() -> Launch {
        Launch {
            fence: Fence::default(),
            dial: 1,
            script: b"true".to_vec(),
            args: vec![b"a b".to_vec()],
            env: vec![(b"LANG".to_vec(), b"C".to_vec()), (b"X".to_vec(), b"1=2".to_vec())],
            cwd: None,
            timeout: None,
            lease_until: None,
            worker: "w1".into(),
        }
    }

    fn own(name: &str, value: &str) -> Variable {
        (name.into(), value.into())
    }

    #[test]
    fn what_the_job_asks_for_goes_over_the_workers_own() {
        let environment =
            environment(&launch(), &vec![own("LANG", "de"), own("LANGUAGE", "x")], Path::new("/w"));

        let text: Vec<_> =
            environment.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert!(text.contains(&"LANG=C".to_owned()) && !text.contains(&"LANG=de".to_owned()));
        assert!(text.contains(&"LANGUAGE=x".to_owned()) && text.contains(&"X=1=2".to_owned()));
        assert!(text.contains(&"TMPDIR=/w".to_owned()) && text.contains(&"PWD=/w".to_owned()));
        assert!(text.contains(&"CLUSTERCTL_TASK=0".to_owned()));
    }

    #[test]
    fn a_script_too_long_for_an_argument_runs_from_a_file() {
        let long = Launch { script: vec![b'x'; ARGUMENT_BYTES_MAX + 1], ..launch() };

        let words = arguments(&long, |_| Ok(PathBuf::from("/s"))).unwrap();

        assert_eq!(words, [b"bash".to_vec(), b"--".to_vec(), b"/s".to_vec(), b"a b".to_vec()]);
        assert_eq!(arguments(&launch(), |_| unreachable!()).unwrap()[1], b"-c");
    }
}
