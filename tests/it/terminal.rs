//! The REPL as a person sees it.

use std::os::unix::fs::PermissionsExt;

use crate::cluster::{Cluster, Home, Site, kill, wait_until};
use crate::pty::Terminal;

fn repl(home: &Home) -> Terminal {
    let terminal = Terminal::start(&home.command([] as [&str; 0]), 60, 110);
    terminal.wait_for_end("> ".trim_end());
    terminal
}

/// Durations, which are never the same, as `0.0s`.
fn settled(text: &str) -> String {
    let mut words = Vec::new();
    for line in text.lines() {
        let line: Vec<String> = line
            .split(' ')
            .map(|word| match word.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok()) {
                true => "0.0s".to_owned(),
                false => word.to_owned(),
            })
            .collect();
        words.push(line.join(" "));
    }
    words.join("\n")
}

#[test]
fn the_first_minutes_on_a_private_pool() {
    let site = Site::new();
    let home = site.home("ann");
    let mut terminal = repl(&home);
    let mut line = |typed: &str, until: &str| {
        terminal.type_line(typed);
        terminal.wait_for_end(until);
    };

    line("echo hello", "local>");
    line("for i in 1 2; do", "…>");
    line("  echo $i", "…>");
    line("done", "2 exit 0 · 0.0s · local\nlocal>");
    line("ls /nope", "local [2]>");
    line("if true; fi", "not submitted\nlocal [2]>");
    line("cd /", "local>");
    line(":cd /usr", "jobs now start in /usr\nlocal>");
    line("pwd", "local>");
    line(":cd", "directory\nlocal>");
    line("printf no-newline", "local>");
    line("kill -9 $$", "local [137]>");
    line(":nonsense", "local [2]>");
    line(":jobs -n 2", "local>");

    let slots = std::thread::available_parallelism().unwrap();
    let text = settled(&terminal.text()).replace(&format!("{slots} slots"), "N slots");
    insta::assert_snapshot!(text, @r#"
    private pool on this machine: N slots · join others with: clusterctl pool serve
    every line runs in a new, empty directory (:cd DIR keeps one) · :help for commands, Ctrl-D to leave
    local> echo hello
    hello
      1 exit 0 · 0.0s · local
    local> for i in 1 2; do
    …>   echo $i
    …> done
    1
    2
      2 exit 0 · 0.0s · local
    local> ls /nope
    ls: cannot access '/nope': No such file or directory
      3 exit 2 · 0.0s · local
    local [2]> if true; fi
    bash: line 1: syntax error near unexpected token `fi'
      not submitted
    local [2]> cd /
      4 exit 0 · 0.0s · local
      note: "cd" lasted only for job 4: every line runs in a new directory. :cd DIR keeps it.
    local> :cd /usr
    jobs now start in /usr
    local> pwd
    /usr
      5 exit 0 · 0.0s · local
    local> :cd
    jobs now start in a new, empty directory
    local> printf no-newline
    no-newline⏎
      6 exit 0 · 0.0s · local
    local> kill -9 $$
      7 killed by SIGKILL · 0.0s · local
    local [137]> :nonsense
    error: there is no :nonsense
      code: usage
      hint: :help
    local [2]> :jobs -n 2
    ID  STATE           TIME  WORKER  NAME  SCRIPT
    6   done            0.0s  local         printf no-newline
    7   failed SIGKILL  0.0s  local         kill -9 $$
    5 older jobs hidden (--all)
    local>
    "#);
}

#[test]
fn a_job_that_fits_nowhere_says_so_and_is_gone_by_ctrl_c() {
    let mut cluster = Cluster::start();
    cluster.join("n1", &["--label", "gpu=a100"]);
    let client = cluster.client("ann");
    let mut terminal = repl(&client);

    terminal.type_line(":run --label gpu=h100 nvidia-smi -L");
    terminal.wait_for("Ctrl-C cancels");
    terminal.press("\x03");
    terminal.wait_for_end("lab [130]>");

    let text = terminal.text();
    let seen = "  1 queued · no worker can run it: gpu=h100 (0 of 1 workers have it; seen: gpu=a100 ×1)\n    waiting for one to join · Ctrl-C cancels\n^C  1 cancelled before it started\nlab [130]>";
    assert!(text.ends_with(seen), "{text}");
}

#[test]
fn ctrl_c_cancels_the_whole_tree_of_what_runs_and_clears_the_line_at_the_prompt() {
    let site = Site::new();
    let home = site.home("ann");
    let mut terminal = repl(&home);
    let mark = format!("MARK=repl-{}", std::process::id());
    terminal.type_line(&format!(":env {mark}"));
    terminal.type_line("echo begun; sleep 1000 | cat & sleep 1000");
    terminal.wait_for("\nbegun");
    wait_until("it runs", || crate::census::carrying(&mark).len() >= 4);

    terminal.press("\x03");
    terminal.wait_for_end("local [130]>");

    crate::census::assert_none(&mark);
    assert!(terminal.text().contains("^C  cancelling 1 (Ctrl-C again to kill)\n  1 cancelled (SIGINT) · "));
    terminal.type_text("echo nothing of this");
    terminal.press("\x03");
    terminal.wait_for_end("local [130]>");
    terminal.type_line("echo next");
    terminal.wait_for_end("local>");
    assert_eq!(home.run(["jobs", "-q"]).ok(), "1\n2\n");
}

#[test]
fn a_job_whose_worker_is_silent_is_let_go_by_the_third_ctrl_c() {
    let mut cluster = Cluster::faster(20);
    let worker = cluster.join("w1", &[]);
    let client = cluster.client("ann");
    let mut terminal = repl(&client);
    terminal.type_line("echo begun; sleep 1000");
    terminal.wait_for("\nbegun");
    cluster.worker(worker).signal(libc::SIGSTOP);
    terminal.wait_for("1 unknown: worker w1 has been silent");

    terminal.press("\x03");
    terminal.wait_for("cancelling 1 (Ctrl-C again to kill)");
    terminal.press("\x03");
    terminal.wait_for("killing 1 (Ctrl-C again to leave it)");
    terminal.press("\x03");

    terminal.wait_for_end("\nlab (1 running) [130]>");
    cluster.worker(worker).signal(libc::SIGCONT);
    terminal.wait_for("[1] ");
}

#[test]
fn a_background_job_ends_with_a_notice_above_the_line_that_is_edited() {
    let site = Site::new();
    let home = site.home("ann");
    let go = home.path().join("go");
    let mut terminal = repl(&home);
    terminal.type_line(&format!("until [ -e {} ]; do sleep 0.01; done; exit 2 &", go.display()));
    terminal.wait_for_end("[1] queued\nlocal (1 running)>");
    terminal.type_text("echo I am typi");

    std::fs::write(&go, "").unwrap();
    terminal.wait_for("[1] failed exit 2 in ");
    terminal.wait_for_end("echo I am typi");
    terminal.type_line("ng");
    terminal.wait_for_end("local>");

    assert!(terminal.text().contains("\nI am typing\n  2 exit 0"), "{}", terminal.text());
}

#[test]
fn a_paste_of_several_lines_is_one_job() {
    let site = Site::new();
    let home = site.home("ann");
    let mut terminal = repl(&home);

    terminal.paste("for i in 1 2\ndo\n  echo \"line\n$i\"\ndone");
    terminal.enter();
    terminal.wait_for_end("local>");

    assert!(terminal.text().contains("line\n1\nline\n2\n  1 exit 0"), "{}", terminal.text());
    assert_eq!(home.run(["jobs", "-q"]).ok(), "1\n");
}

#[test]
fn leaving_says_what_goes_on_and_coming_back_what_has_ended() {
    let site = Site::new();
    let home = site.home("ann");
    let go = home.path().join("go");
    let mut terminal = repl(&home);
    terminal.type_line(&format!("until [ -e {} ]; do sleep 0.01; done &", go.display()));
    terminal.wait_for_end("local (1 running)>");

    terminal.press("\x04");

    assert_eq!(terminal.wait_for_exit(), 0);
    terminal.wait_for("1 job keeps running: 1. Follow it with: clusterctl logs -f 1");
    assert!(terminal.is_as_it_was_found());
    std::fs::write(&go, "").unwrap();
    home.wait_for_state("1", "done");
    let again = repl(&home);
    again.wait_for("1 job ended since you left: :jobs");
}

#[test]
fn the_history_is_private_and_keeps_no_line_that_begins_with_a_space() {
    let site = Site::new();
    let home = site.home("ann");
    let mut terminal = repl(&home);
    terminal.type_line("echo kept");
    terminal.wait_for_end("local>");
    terminal.type_line(" echo secret");
    terminal.wait_for_end("local>");
    terminal.press("\x04");
    terminal.wait_for_exit();

    let path = home.path().join(".local/state/clusterctl/history");

    let history = std::fs::read_to_string(&path).unwrap();
    assert!(history.contains("echo kept") && !history.contains("secret"), "{history}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut again = repl(&home);
    again.press("\x1b[A");
    again.wait_for_end("local> echo kept");
    again.press("\x1b[B");
    again.wait_for_end("local>");
    again.type_text("ec");
    again.press("\x1b[A");
    again.wait_for_end("local> echo kept");
}

#[test]
fn a_pool_that_goes_and_comes_back_is_told_at_the_prompt_and_work_goes_on() {
    let mut cluster = Cluster::start();
    cluster.join("n1", &[]);
    let client = cluster.client("ann");
    let mut terminal = repl(&client);
    let go = cluster.site.path().join("go");
    let (begun, script) = (
        cluster.site.path().join("begun"),
        format!("echo one; until [ -e {} ]; do sleep 0.01; done; echo two", go.display()),
    );
    terminal.type_line(&format!("touch {}; {script}", begun.display()));
    terminal.wait_for_end("one");

    cluster.kill_pool();
    cluster.restart_pool();
    std::fs::write(&go, "").unwrap();
    terminal.wait_for_end("lab>");
    assert!(terminal.text().contains("one\ntwo\n  1 exit 0"), "{}", terminal.text());

    cluster.kill_pool();
    terminal.type_line(":help");
    terminal.wait_for_end("lab !offline>");
    cluster.restart_pool();
    terminal.type_line("echo back");
    terminal.wait_for_end("lab>");
    assert!(terminal.text().contains("\nback\n"), "{}", terminal.text());
}

#[test]
fn while_the_pool_is_away_ctrl_c_gives_the_prompt_back() {
    let mut cluster = Cluster::start();
    let client = cluster.client("ann");
    let mut terminal = repl(&client);
    cluster.kill_pool();

    terminal.type_line("echo hello");
    terminal.wait_for("connection lost, retrying…");
    terminal.press("\x03");
    terminal.wait_for("(Ctrl-C again to give up)");
    terminal.press("\x03");
    terminal.wait_for_end("^C  interrupted; the pool may have taken the job\nlab !offline [130]>");
    terminal.type_line(":jobs");
    terminal.press("\x03");

    terminal.wait_for_end("^C  interrupted\nlab !offline [130]>");
}

#[test]
fn a_cancel_that_the_pool_has_not_answered_goes_on_behind_the_prompt() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let client = cluster.client("ann");
    let mut terminal = repl(&client);
    terminal.type_line("echo begun; sleep 1000");
    terminal.wait_for("\nbegun");
    cluster.kill_pool();
    terminal.wait_for("connection lost, retrying…");

    for said in ["cancelling 1 (Ctrl-C again to kill)", "killing 1 (Ctrl-C again to leave it)"] {
        terminal.press("\x03");
        terminal.wait_for(said);
    }
    terminal.press("\x03");
    terminal.wait_for_end("^C  the pool has not answered: 1 may go on\nlab !offline (1 running) [130]>");
    cluster.restart_pool();

    terminal.wait_for("[1] cancelled ");
}

#[test]
fn the_terminal_is_given_back_as_it_was_found_also_when_the_repl_is_killed() {
    let site = Site::new();
    let home = site.home("ann");
    let mut terminal = repl(&home);
    terminal.type_line("true");
    terminal.wait_for_end("local>");
    assert!(!terminal.is_as_it_was_found(), "the editor has it in raw mode");

    kill(terminal.pid(), libc::SIGTERM);

    assert_eq!(terminal.wait_for_exit(), 0);
    assert!(terminal.is_as_it_was_found());
}

#[test]
fn serving_and_prompting_in_one_terminal() {
    let site = Site::new();
    let home = site.home("ann");
    let command = home.command(["pool", "serve", "--listen", "127.0.0.1:0", "--repl"]);
    let mut terminal = Terminal::start(&command, 60, 200);
    terminal.wait_for_end(">");
    terminal.type_line("echo begun; sleep 1000");
    terminal.wait_for("\nbegun");

    // Ctrl-C is for the job.
    terminal.press("\x03");
    terminal.wait_for("1 cancelled (SIGINT)");
    terminal.type_line("echo still here");
    terminal.wait_for("\nstill here\n");
    terminal.wait_for_end(">");

    terminal.press("\x04");
    assert_eq!(terminal.wait_for_exit(), 0);
}
