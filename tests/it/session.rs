//! The session that the README shows: what is typed, and what is waited for before the next line is.

use std::process::Command;

use crate::cluster::Home;
use crate::pty::Terminal;

/// The prompt of the shell that everything begins and ends in.
const SHELL: &str = "$";

/// What a person does, and what the screen shows when it has been done.
pub struct Step {
    does: Does,
    /// Is on the screen by then.
    shows: &'static str,
    /// And the screen ends with this.
    ends: &'static str,
}

enum Does {
    Types(&'static str),
    PressesCtrlC,
}

const fn types(line: &'static str, ends: &'static str) -> Step {
    Step { does: Does::Types(line), shows: "", ends }
}

/// The whole of it.
pub const STEPS: &[Step] = &[
    types("clusterctl", "local>"),
    types("echo hello from $CLUSTERCTL_WORKER", "local>"),
    types("for i in 1 2 3; do", "…>"),
    types("  echo $i; sleep 0.4", "…>"),
    types("done", "local>"),
    types("ls /nope", "local [2]>"),
    types("if true; fi", "not submitted\nlocal [2]>"),
    types("cd /usr", "local>"),
    types(":cd /usr", "local>"),
    types("pwd", "local>"),
    types("echo begun; sleep 600", "\nbegun"),
    Step { does: Does::PressesCtrlC, shows: "cancelled (SIGINT)", ends: "local [130]>" },
    types(":run --label gpu=a100 nvidia-smi -L", "Ctrl-C cancels"),
    Step { does: Does::PressesCtrlC, shows: "cancelled before it started", ends: "local [130]>" },
    types(":run --array 1-20 sleep 0.1; [ $CLUSTERCTL_TASK != 13 ]", "local [1]>"),
    types(":jobs -n 3", "local>"),
    Step { does: Does::Types("sleep 1; exit 3 &"), shows: "failed exit 3 in ", ends: ">" },
    types("sleep 600 &", "local (1 running)>"),
    types(":q", SHELL),
    types("clusterctl cancel 10", SHELL),
    types("printf 'cd /tmp\\npwd\\n' | clusterctl", SHELL),
    types("clusterctl run 'kill -9 $$'; echo $?", SHELL),
];

/// Plays it in a shell on a terminal that has room for all of it.
pub fn play(home: &Home) -> Terminal {
    let mut terminal = Terminal::start(&shell(home), 100, 104);
    terminal.wait_for_end(SHELL);
    for step in STEPS {
        match step.does {
            Does::Types(line) => terminal.type_line(line),
            Does::PressesCtrlC => terminal.press("\x03"),
        }
        if !step.shows.is_empty() {
            terminal.wait_for(step.shows);
        }
        terminal.wait_for_end(step.ends);
    }
    terminal
}

/// A shell of somebody who has installed the program.
fn shell(home: &Home) -> Command {
    let program = home.command([] as [&str; 0]);
    let installed = std::path::Path::new(program.get_program()).parent().unwrap();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(installed.to_owned()).chain(std::env::split_paths(&paths));
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).current_dir(home.path());
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.env("PATH", std::env::join_paths(paths).unwrap()).env("PS1", "$ ").env_remove("HISTFILE");
    shell
}
