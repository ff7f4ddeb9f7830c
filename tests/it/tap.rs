//! A wire tap: stands between a peer and its pool, keeps every byte that passes, and can cut the line.
//!
//! Peers are known by their keys and not by their addresses, so nobody minds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Line {
    open: Vec<TcpStream>,
    bytes: Vec<u8>,
    refusing: bool,
    /// Connections so far.
    count: u64,
    /// Bytes of the first so many connections vanish.
    muted: u64,
}

/// A tap that listens on a port of its own.
pub struct Tap {
    pub address: String,
    line: Arc<Mutex<Line>>,
}

impl Tap {
    pub fn on(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let line = Arc::new(Mutex::new(Line::default()));
        let (target, shared) = (target.to_owned(), Arc::clone(&line));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                let mut line = shared.lock().unwrap();
                if line.refusing {
                    continue;
                }
                let Ok(far) = TcpStream::connect(&target) else { continue };
                line.open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                line.count += 1;
                let number = line.count;
                for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                    let shared = Arc::clone(&shared);
                    let (from, to) = (from.unwrap(), to.unwrap());
                    std::thread::spawn(move || copy(from, to, number, &shared));
                }
            }
        });
        Self { address, line }
    }

    /// Cuts every connection; new ones are refused until `mend`.
    pub fn cut(&self) {
        let mut line = self.line.lock().unwrap();
        line.refusing = true;
        for stream in line.open.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets bytes of the present connections vanish, without a word to anybody; new connections carry theirs.
    pub fn mute(&self) {
        let mut line = self.line.lock().unwrap();
        line.muted = line.count;
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        self.line.lock().unwrap().count
    }

    pub fn mend(&self) {
        self.line.lock().unwrap().refusing = false;
    }

    /// Every byte that has passed so far, in either direction.
    pub fn bytes(&self) -> Vec<u8> {
        self.line.lock().unwrap().bytes.clone()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, number: u64, line: &Mutex<Line>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let mut line = line.lock().unwrap();
        if number <= line.muted {
            continue;
        }
        line.bytes.extend(&buffer[..count]);
        drop(line);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
