//! A terminal: a program on a pty, what is typed into it, and the screen that a person would see.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

use crate::cluster::wait_or;

/// A program on a terminal.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Kept open, so that what the program leaves behind can be looked at.
    line: OwnedFd,
    found: Termios,
}

impl Terminal {
    /// Starts a program as the session leader of a new terminal of this size.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let found = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // The controlling terminal can be taken only by a new session's leader, which setsid(1) is for.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            leader.env(name, value.unwrap_or_default());
        }
        leader.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        if let Some(directory) = command.get_current_dir() {
            leader.current_dir(directory);
        }
        let child = leader.spawn().unwrap();
        let number = |n| NonZeroU16::new(n).unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(number(rows), number(columns), 0)));
        let mut output = File::from(pty.master.try_clone().unwrap());
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with the last descriptor of the other side.
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, keyboard: File::from(pty.master), screen, line: pty.slave, found }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Types text, and waits until all of it is on the screen.
    #[track_caller]
    pub fn type_text(&mut self, text: &str) {
        let before = self.text().len();
        self.press(text);
        self.wait(text, |shown| shown.len() >= before + text.trim_end().len());
    }

    /// Types a line.
    #[track_caller]
    pub fn type_line(&mut self, line: &str) {
        self.type_text(line);
        self.enter();
    }

    /// Presses Enter, and waits until the screen has changed: so what is waited for next comes after it.
    #[track_caller]
    pub fn enter(&mut self) {
        let typed = self.screen();
        self.press("\r");
        let moved = |now: &vt100::Screen| {
            now.cursor_position().0 != typed.cursor_position().0 || now.contents() != typed.contents()
        };
        wait_or(|| format!("Enter does nothing on\n{}", self.text()), || moved(&self.screen()).then_some(()));
    }

    /// Pastes text, as a terminal with bracketed paste does it, and waits until its last line is on the screen.
    #[track_caller]
    pub fn paste(&mut self, text: &str) {
        self.press(&format!("\x1b[200~{text}\x1b[201~"));
        self.wait_for_end(text.lines().last().unwrap_or_default());
    }

    /// What is on the screen, without empty lines at its end.
    pub fn text(&self) -> String {
        let text = self.screen.lock().unwrap().screen().contents();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// The screen as a terminal emulator has it.
    pub fn screen(&self) -> vt100::Screen {
        self.screen.lock().unwrap().screen().clone()
    }

    /// Waits until the screen ends with this: a prompt, say.
    #[track_caller]
    pub fn wait_for_end(&self, end: &str) {
        self.wait(end, |text| text.ends_with(end));
    }

    /// Waits until this is on the screen.
    #[track_caller]
    pub fn wait_for(&self, part: &str) {
        self.wait(part, |text| text.contains(part));
    }

    #[track_caller]
    fn wait(&self, what: &str, holds: impl Fn(&str) -> bool) {
        wait_or(
            || format!("waited too long for {what:?} on\n{}", self.text()),
            || holds(&self.text()).then_some(()),
        );
    }

    /// The program's process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Waits until the program ends; its exit code, or -1 for a signal.
    pub fn wait_for_exit(&mut self) -> i32 {
        let screen = Arc::clone(&self.screen);
        let text = || screen.lock().unwrap().screen().contents();
        let child = &mut self.child;
        let status =
            wait_or(|| format!("it does not end; the screen is\n{}", text()), || child.try_wait().unwrap());
        status.code().unwrap_or(-1)
    }

    /// Whether the terminal's settings are as they were found: what `stty -g` tells.
    pub fn is_as_it_was_found(&self) -> bool {
        tcgetattr(&self.line).unwrap() == self.found
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
