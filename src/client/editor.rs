//! The line editor, on a thread of its own: rustyline, with bash to judge whether a line is complete.
//!
//! It knows no pool: lines go one way, prompts and messages above the edited line the other.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, ExternalPrinter, Helper,
    KeyCode, KeyEvent, Modifiers, RepeatCount,
};
use tokio::sync::mpsc;

use crate::say::say;

/// The prompt of a text that has to go on.
const CONTINUATION: &str = "…> ";
/// Lines that are kept.
const HISTORY_LINES: usize = 10_000;

/// What a person did at the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Text that bash would run, of one line or several.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
}

/// Up and Down: through the lines of the text, or those of the history that begin with what stands before the cursor.
#[derive(Clone, Default)]
struct Arrows {
    /// The first press found nothing typed: then all of the history is walked.
    walking: Arc<AtomicBool>,
}

impl ConditionalEventHandler for Arrows {
    fn handle(&self, event: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        let is_up = event.get(0)? == &KeyEvent(KeyCode::Up, Modifiers::NONE);
        let (before, behind) = context.line().split_at_checked(context.pos())?;
        if before.is_empty() {
            self.walking.store(true, Ordering::Relaxed);
        }
        let crosses_lines = if is_up { before } else { behind }.contains('\n');
        Some(match (is_up, crosses_lines || self.walking.load(Ordering::Relaxed)) {
            (true, true) => Cmd::LineUpOrPreviousHistory(1),
            (true, false) => Cmd::HistorySearchBackward,
            (false, true) => Cmd::LineDownOrNextHistory(1),
            (false, false) => Cmd::HistorySearchForward,
        })
    }
}

/// Shows the prompt with its styles, which the editor does only for who has a highlighter; nothing else of it is used.
struct Styled;

impl Helper for Styled {}
impl Highlighter for Styled {}
impl Validator for Styled {}
impl Completer for Styled {
    type Candidate = String;
}
impl Hinter for Styled {
    type Hint = String;
}

/// The prompt's side of the channel.
pub struct Prompts {
    prompts: std::sync::mpsc::Sender<String>,
    typed: mpsc::UnboundedReceiver<Typed>,
    /// None on a terminal that cannot do more than print.
    printer: Option<Box<dyn ExternalPrinter + Send>>,
    /// The terminal as it was found.
    cooked: Termios,
}

/// What bash says of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be run.
    Complete,
    /// More has to come.
    Incomplete,
    /// It never will; bash's own words.
    Wrong(String),
}

/// Asks `bash -n`, on its standard input, since an argument has a limit. Without a bash here only a trailing backslash
/// counts, and the worker's bash says the rest.
pub fn judge(text: impl AsRef<[u8]>) -> Verdict {
    let text = text.as_ref();
    let continues = text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1;
    let asked = Command::new("bash")
        .args(["-O", "extglob", "-n"])
        .env("LC_ALL", "C")
        .env_remove("BASH_ENV")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut bash) = asked else {
        return if continues { Verdict::Incomplete } else { Verdict::Complete };
    };
    if let Some(mut stdin) = bash.stdin.take() {
        // A bash that has seen enough closes its input.
        let _ = stdin.write_all(text).and_then(|()| stdin.write_all(b"\n"));
    }
    let Ok(said) = bash.wait_with_output() else { return Verdict::Complete };
    let words = String::from_utf8_lossy(&said.stderr);
    let unfinished = ["unexpected EOF", "unexpected end of file", "delimited by end-of-file"];
    if unfinished.iter().any(|mark| words.contains(mark)) || (said.status.success() && continues) {
        return Verdict::Incomplete;
    }
    if said.status.success() { Verdict::Complete } else { Verdict::Wrong(without_echo(&words)) }
}

/// Bash's words less the lines that only repeat the text.
fn without_echo(words: &str) -> String {
    let echoes = |line: &str| {
        let rest = line.strip_prefix("bash: line ").and_then(|rest| rest.split_once(": "));
        rest.is_some_and(|(_, rest)| rest.starts_with('`') && rest.ends_with('\''))
    };
    words.lines().filter(|line| !echoes(line)).collect::<Vec<_>>().join("\n")
}

/// Starts the editor.
///
/// # Errors
/// When there is no terminal.
pub fn start() -> anyhow::Result<Prompts> {
    let config = Config::builder()
        .history_ignore_space(true)
        .history_ignore_dups(true)?
        .max_history_size(HISTORY_LINES)?
        .bracketed_paste(true)
        .build();
    let mut editor: Editor<Styled, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Styled));
    let arrows = Arrows::default();
    for key in [KeyCode::Up, KeyCode::Down] {
        let arrow = EventHandler::Conditional(Box::new(arrows.clone()));
        editor.bind_sequence(Event::from(KeyEvent(key, Modifiers::NONE)), arrow);
    }
    editor.bind_sequence(Event::from(KeyEvent(KeyCode::Enter, Modifiers::ALT)), Cmd::Newline);
    let history = super::context::history_path();
    if let Some(path) = &history {
        // No history yet, or none that can be read: then it begins here.
        let _ = editor.load_history(path);
    }
    let cooked = tcgetattr(std::io::stdin())?;
    let printer = editor.create_external_printer().ok();
    let (prompts, wanted) = std::sync::mpsc::channel::<String>();
    let (sender, typed) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("editor".into()).spawn(move || {
        for prompt in wanted {
            let typed = read(&mut editor, &arrows, &prompt);
            if let Typed::Text(text) = &typed
                && editor.add_history_entry(text).unwrap_or(false)
                && let Some(path) = &history
            {
                save(&mut editor, path);
            }
            if sender.send(typed).is_err() {
                return;
            }
        }
    })?;
    let printer = printer.map(|printer| Box::new(printer) as Box<dyn ExternalPrinter + Send>);
    Ok(Prompts { prompts, typed, printer, cooked })
}

/// Reads lines until bash would run them.
fn read(editor: &mut Editor<Styled, FileHistory>, arrows: &Arrows, prompt: &str) -> Typed {
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { prompt } else { CONTINUATION };
        arrows.walking.store(false, Ordering::Relaxed);
        match editor.readline(&(prompt, super::render::styled_prompt(prompt))) {
            Ok(line) => text.push_str(&line),
            Err(ReadlineError::Eof) if text.is_empty() => return Typed::End,
            // What was typed so far is dropped as a whole.
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Typed::Interrupt,
            Err(ReadlineError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                say!("what was typed is no UTF-8; pipe it to clusterctl instead");
                return Typed::Interrupt;
            }
            Err(_) => return Typed::End,
        }
        let is_bash = !text.trim().is_empty() && meta_words(text.trim()).is_none();
        if !is_bash || judge(&text) != Verdict::Incomplete {
            return Typed::Text(text);
        }
        text.push('\n');
    }
}

/// Adds the last text to the history file, which is this user's alone.
fn save(editor: &mut Editor<Styled, FileHistory>, path: &std::path::Path) {
    if let Some(directory) = path.parent() {
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    }
    // A history that cannot be written is not worth a word at every line.
    let _ = editor.append_history(path);
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
}

impl Prompts {
    /// Shows a prompt; what is typed comes by `typed`.
    pub fn ask(&self, prompt: &str) {
        // The editor's thread lives as long as we hold its prompts.
        let _ = self.prompts.send(prompt.to_owned());
    }

    /// What a person does at the prompt. Cancel-safe.
    pub async fn typed(&mut self) -> Typed {
        self.typed.recv().await.unwrap_or(Typed::End)
    }

    /// Prints a line above the one that is edited.
    pub fn notice(&mut self, text: &str) {
        match &mut self.printer {
            // Without a terminal there is nobody to notice.
            Some(printer) => drop(printer.print(format!("{text}\n"))),
            None => say!("{text}"),
        }
    }
}

impl Drop for Prompts {
    /// The editor's thread may still be reading: the terminal is given back as it was found.
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.cooked);
    }
}

/// The words of a command behind a colon; some are understood without one. A colon alone is bash's.
pub(super) fn meta_words(text: &str) -> Option<&str> {
    if matches!(text, "help" | "quit" | "exit") {
        return Some(text);
    }
    text.strip_prefix(':').filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '?'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_judges_what_is_complete() {
        let complete = [
            "echo hi",
            "ls !(a|b)",
            "for i in 1; do echo; done",
            "a=(1 2)",
            "echo '\\'",
            "cat <<E\nx\nE",
            "[[ a =~ b ]]",
        ];
        let incomplete = [
            "echo 'a",
            "echo \"a",
            "echo $(ls",
            "echo ${x",
            "if true",
            "for i in 1; do",
            "a=(1 2",
            "echo a \\",
            "true |",
            "true &&",
            "f() {",
            "cat <<E\nx",
            "case x in",
        ];
        let wrong = ["if true; fi", "fi", "echo )", "done"];

        complete.iter().for_each(|text| assert_eq!(judge(text), Verdict::Complete, "{text}"));
        incomplete.iter().for_each(|text| assert_eq!(judge(text), Verdict::Incomplete, "{text}"));
        wrong.iter().for_each(|text| assert!(matches!(judge(text), Verdict::Wrong(_)), "{text}"));
    }

    #[test]
    fn a_colon_alone_is_bashs() {
        assert_eq!(meta_words(":jobs -a"), Some("jobs -a"));
        assert_eq!(meta_words("exit"), Some("exit"));
        for bash in [":", ": comment", "exit 7", ":>file"] {
            assert_eq!(meta_words(bash), None, "{bash}");
        }
    }
}
