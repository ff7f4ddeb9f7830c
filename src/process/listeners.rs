//! Who listens on a port of this machine, as far as this user may see it.

use std::fs;

/// A socket that listens, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The process that listens on a TCP port, with its name.
pub fn holder(port: u16) -> Option<(i32, String)> {
    let sockets: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().flat_map(|table| listening(table, port)).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd")).ok()?.flatten().any(|fd| {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            sockets.iter().any(|socket| link.as_os_str() == socket.as_str())
        });
        let name = || fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
        holds.then(|| (pid, name()))
    })
}

/// The sockets of a table that listen on a port, as descriptors link to them.
fn listening(table: &str, port: u16) -> Vec<String> {
    let text = fs::read_to_string(table).unwrap_or_default();
    let socket = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let local = columns.get(1)?.rsplit_once(':')?.1;
        let listens = *columns.get(3)? == LISTEN && u16::from_str_radix(local, 16) == Ok(port);
        listens.then(|| format!("socket:[{}]", columns.get(9).unwrap_or(&"")))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();

        assert_eq!(holder(port).unwrap().0, i32::try_from(std::process::id()).unwrap());

        drop(listener);
        assert_eq!(holder(port), None);
    }
}
