//! An HTTP proxy that opens tunnels by CONNECT, and is the only one that knows where certain names are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy on a port of its own.
pub struct ConnectProxy {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// Tunnels to one name lead to an address; all others are forbidden.
    pub fn knowing(name: &str, target: &str) -> Self {
        let (name, target) = (name.to_owned(), target.to_owned());
        Self::answering(move |near, asked| {
            if !asked.starts_with(&format!("CONNECT {name} HTTP/1.1\r\n")) {
                near.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
                return;
            }
            let far = TcpStream::connect(&target).unwrap();
            near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            for (from, to) in [(near.try_clone(), far.try_clone()), (Ok(far), near.try_clone())] {
                let (mut from, mut to) = (from.unwrap(), to.unwrap());
                std::thread::spawn(move || {
                    // Either side may hang up at any time.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        })
    }

    /// It takes connections, reads what is asked, and says nothing.
    pub fn mute() -> Self {
        let held = Mutex::new(Vec::new());
        Self::answering(move |near, _| held.lock().unwrap().push(near.try_clone().unwrap()))
    }

    fn answering(answer: impl Fn(&mut TcpStream, &str) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(mut near) = near else { return };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && near.read(&mut byte).is_ok_and(|count| count == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                answer(&mut near, &head);
                seen.lock().unwrap().push(head);
            }
        });
        Self { address, requests }
    }

    /// Its URL, with a name and a password.
    pub fn url(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}", self.address)
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}
