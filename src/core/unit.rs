//! What a service manager is told of a pool or a worker: a systemd unit as text, with its words escaped.
//!
//! It knows neither where units lie nor whether systemd is there.

use std::fmt::Write;

/// Words that systemd takes as they are; `%` and `$` are doubled.
const PLAIN: &str = "_-+=:,./@%$";

/// What a unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// A pool: SIGTERM grants ten minutes of lease, and it exits within 5 s. Who stops it by hand wants it stopped.
    Pool,
    /// A worker's agent: SIGHUP makes it leave, and executor and jobs go on.
    Worker,
}

/// Whose systemd runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// The machine's.
    System,
    /// One user's own.
    User,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What it runs.
    pub served: Served,
    /// Whose systemd runs it.
    pub manager: Manager,
    /// What people are shown.
    pub description: String,
    /// The program, absolute, and its arguments.
    pub command: Vec<String>,
    /// Variables for it.
    pub environment: Vec<(String, String)>,
}

/// Why there can be no unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("systemd runs no program whose path has quotes, backslashes or control characters: {0}")]
pub struct BadProgram(pub String);

impl Unit {
    /// The whole file.
    ///
    /// # Errors
    /// When systemd would not run the program because of its path.
    pub fn text(&self) -> Result<String, BadProgram> {
        let (program, arguments) = self.command.split_first().expect("a unit runs something");
        let mut command = escape_program(program)?;
        for argument in arguments {
            command.push(' ');
            command += &escape_argument(argument);
        }
        let mut text = String::from("[Unit]\n");
        // Writing to a String does not fail.
        let _ = writeln!(text, "Description={}", self.description.replace('%', "%%"));
        let target = match self.manager {
            Manager::System => {
                text += "Wants=network-online.target\nAfter=network-online.target\n";
                "multi-user.target"
            }
            Manager::User => "default.target",
        };
        text += "StartLimitIntervalSec=0\n\n[Service]\n";
        let _ = writeln!(text, "ExecStart={command}");
        if self.manager == Manager::System {
            // So that HOME and the like are set.
            text += "User=root\n";
        }
        for (name, value) in &self.environment {
            let _ = writeln!(text, "Environment={}", quote(&format!("{name}={value}").replace('%', "%%")));
        }
        text += match self.served {
            Served::Pool => "Restart=on-failure\nKillSignal=SIGTERM\n",
            Served::Worker => "Restart=always\nKillSignal=SIGHUP\n",
        };
        // Refused for good, or mistyped: another start would end in the same way. A job that takes too much memory
        // must not end its neighbours.
        text += "RestartSec=2\nRestartPreventExitStatus=2 5\nKillMode=process\nTimeoutStopSec=30\n\
                 OOMPolicy=continue\nTasksMax=infinity\n";
        let _ = write!(text, "\n[Install]\nWantedBy={target}\n");
        Ok(text)
    }
}

/// What a unit's text says that it is for.
pub fn description_of(unit: &str) -> Option<String> {
    unit.lines().find_map(|line| line.strip_prefix("Description=")).map(|line| line.replace("%%", "%"))
}

/// The program's path, in which `$` stands for itself.
fn escape_program(path: &str) -> Result<String, BadProgram> {
    if path.contains(['"', '\'', '\\']) || path.contains(char::is_control) {
        return Err(BadProgram(path.escape_debug().to_string()));
    }
    Ok(quote_if_needed(&path.replace('%', "%%")))
}

/// An argument of `ExecStart=`, by systemd.service(5), "Command lines": neither specifier nor variable is expanded.
fn escape_argument(word: &str) -> String {
    quote_if_needed(&word.replace('%', "%%").replace('$', "$$"))
}

fn quote_if_needed(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { quote(word) }
}

/// In double quotes, with the escapes of systemd.syntax(7).
fn quote(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            c if c.is_ascii_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(served: Served, manager: Manager) -> Unit {
        let command = ["/opt/a b/clusterctl", "worker", "join", "head:7700", "--label", "load=50%"];
        Unit {
            served,
            manager,
            description: "clusterctl worker for head:7700".to_owned(),
            command: command.map(str::to_owned).to_vec(),
            environment: vec![("NO_PROXY".to_owned(), "*.lan, 10.0.0.0/8".to_owned())],
        }
    }

    #[test]
    fn a_worker_is_left_by_its_agent_alone_and_started_again_unless_it_is_refused_for_good() {
        insta::assert_snapshot!(unit(Served::Worker, Manager::System).text().unwrap(), @r#"
        [Unit]
        Description=clusterctl worker for head:7700
        Wants=network-online.target
        After=network-online.target
        StartLimitIntervalSec=0

        [Service]
        ExecStart="/opt/a b/clusterctl" worker join head:7700 --label load=50%%
        User=root
        Environment="NO_PROXY=*.lan, 10.0.0.0/8"
        Restart=always
        KillSignal=SIGHUP
        RestartSec=2
        RestartPreventExitStatus=2 5
        KillMode=process
        TimeoutStopSec=30
        OOMPolicy=continue
        TasksMax=infinity

        [Install]
        WantedBy=multi-user.target
        "#);
    }

    #[test]
    fn a_pool_of_a_user_is_told_by_sigterm_and_stays_away_when_somebody_stops_it() {
        let text = unit(Served::Pool, Manager::User).text().unwrap();

        for line in ["KillSignal=SIGTERM", "Restart=on-failure", "WantedBy=default.target"] {
            assert!(text.lines().any(|own| own == line), "{text}");
        }
        assert!(!text.contains("User=") && !text.contains("network-online"), "{text}");
        assert_eq!(description_of(&text).as_deref(), Some("clusterctl worker for head:7700"));
    }

    #[test]
    fn a_word_reaches_the_program_as_it_was_typed() {
        for (word, escaped) in [
            ("head:7700", "head:7700"),
            ("a b", r#""a b""#),
            ("", r#""""#),
            (";", r#"";""#),
            ("50%h", "50%%h"),
            ("$HOME", "$$HOME"),
            (r#"q"\"#, r#""q\"\\""#),
            ("'x'", r#""'x'""#),
            ("two\nlines\t", r#""two\nlines\x09""#),
        ] {
            assert_eq!(escape_argument(word), escaped);
        }
    }

    #[test]
    fn a_programs_path_keeps_its_dollars_and_one_that_systemd_refuses_is_refused() {
        assert_eq!(escape_program("/a b/100%/$x").unwrap(), r#""/a b/100%%/$x""#);
        for bad in ["/a\"b", "/a'b", "/a\\b", "/a\nb"] {
            assert!(escape_program(bad).is_err(), "{bad:?}");
        }
    }
}
