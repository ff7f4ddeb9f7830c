//! systemd units of pools and workers, as text. See systemd.service(5) and systemd.kill(5).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What a unit starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// What people read of it.
    pub(super) description: String,
    /// Program and arguments.
    pub(super) command: Vec<OsString>,
    pub(super) kind: Kind,
    pub(super) scope: Scope,
}

/// How it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pool,
    Worker,
}

/// Whose manager starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// At boot.
    System,
    /// When this user logs in, or lingers.
    User,
}

impl Unit {
    /// The text of its file.
    pub(super) fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Pool => {
                "# SIGTERM: what was accepted is durable, workers get a long lease, jobs go on. A worker of the pool's own stays.
KillMode=process
TimeoutStopSec=15
"
            }
            Kind::Worker => {
                "# SIGHUP ends the agent alone: stopping, restarting or upgrading it leaves executor and jobs as they are.
# To let a worker finish and end: systemctl kill --signal=TERM
KillMode=process
KillSignal=SIGHUP
TimeoutStopSec=15
# Its executor has a control group of its own below this one.
Delegate=yes
# A job that takes too much memory is no reason to end the others.
OOMPolicy=continue
TasksMax=infinity
# The pool refuses it for good.
RestartPreventExitStatus=5
"
            }
        };
        let target = match self.scope {
            Scope::System => "multi-user.target",
            Scope::User => "default.target",
        };
        let command: Vec<String> = self.command.iter().map(|word| escape(word)).collect();
        format!(
            "[Unit]
Description={}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={}
Restart=on-failure
RestartSec=2
{kind}
[Install]
WantedBy={target}
",
            self.description.replace('%', "%%"),
            command.join(" "),
        )
    }
}

/// A word of a command line: quoted where it needs to be, nothing in it replaced.
fn escape(word: &OsStr) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:,=@+".contains(byte);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.to_string_lossy().into_owned();
    }
    let mut text = String::from("\"");
    for &byte in word.as_bytes() {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'%' => text.push_str("%%"),
            b'$' => text.push_str("$$"),
            b' '..=b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_word_stands_for_itself_whatever_is_in_it() {
        assert_eq!(escape(OsStr::new("head:7700")), "head:7700");
        assert_eq!(escape(OsStr::new("")), "\"\"");
        assert_eq!(escape(OsStr::new("a b")), "\"a b\"");
        assert_eq!(escape(OsStr::new("100% $HOME \"q\" \\")), "\"100%% $$HOME \\\"q\\\" \\\\\"");
        assert_eq!(escape(OsStr::new("é\n")), "\"\\xc3\\xa9\\x0a\"");
        assert_eq!(escape(OsStr::new(";")), "\";\"");
    }

    #[test]
    fn a_workers_unit_leaves_executor_and_jobs_alone() {
        let unit = Unit {
            description: "clusterctl worker n1 of head:7700".to_owned(),
            command: words(&["/usr/bin/clusterctl", "worker", "join", "head:7700", "--label", "rack=a 1"]),
            kind: Kind::Worker,
            scope: Scope::System,
        };

        insta::assert_snapshot!(unit.text(), @r#"
        [Unit]
        Description=clusterctl worker n1 of head:7700
        Wants=network-online.target
        After=network-online.target
        StartLimitIntervalSec=0

        [Service]
        ExecStart=/usr/bin/clusterctl worker join head:7700 --label "rack=a 1"
        Restart=on-failure
        RestartSec=2
        # SIGHUP ends the agent alone: stopping, restarting or upgrading it leaves executor and jobs as they are.
        # To let a worker finish and end: systemctl kill --signal=TERM
        KillMode=process
        KillSignal=SIGHUP
        TimeoutStopSec=15
        # Its executor has a control group of its own below this one.
        Delegate=yes
        # A job that takes too much memory is no reason to end the others.
        OOMPolicy=continue
        TasksMax=infinity
        # The pool refuses it for good.
        RestartPreventExitStatus=5

        [Install]
        WantedBy=multi-user.target
        "#);
    }

    #[test]
    fn a_pools_unit_of_a_user_starts_with_the_user() {
        let unit = Unit {
            description: "clusterctl pool lab".to_owned(),
            command: words(&["/usr/bin/clusterctl", "pool", "serve", "--name", "lab"]),
            kind: Kind::Pool,
            scope: Scope::User,
        };

        let text = unit.text();

        assert!(text.contains("WantedBy=default.target\n"), "{text}");
        assert!(!text.contains("KillSignal"), "{text}");
    }
}
