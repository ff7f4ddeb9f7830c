//! What other processes see of this one's command line and environment.

use std::fs;

/// Fields of `/proc/self/stat` that tell where arguments and environment lie, counted from 1: proc_pid_stat(5).
const ARGUMENTS: [usize; 2] = [48, 49];
const ENVIRONMENT: [usize; 2] = [50, 51];

/// Overwrites every argument and variable that has this secret in it, so that `ps` shows it no longer.
///
/// Called before there is a second thread.
pub fn wipe(secret: &str) {
    for region in [ARGUMENTS, ENVIRONMENT] {
        if let Some(memory) = memory_of(region) {
            overwrite(memory, secret.as_bytes());
        }
    }
}

fn overwrite(memory: &mut [u8], secret: &[u8]) {
    if secret.is_empty() {
        return;
    }
    let mut from = 0;
    while let Some(at) = memory[from..].windows(secret.len()).position(|window| window == secret) {
        memory[from + at..from + at + secret.len()].fill(b'x');
        from += at + secret.len();
    }
}

fn memory_of([first, end]: [usize; 2]) -> Option<&'static mut [u8]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, which may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<usize>().ok();
    let (first, end) = (field(first)?, field(end)?);
    if first == 0 || end <= first {
        return None;
    }
    // SAFETY: the kernel put the strings there and maps them writable for the life of the process; std copies what it
    // gives out, and nobody else writes there, this being the only thread.
    Some(unsafe { std::slice::from_raw_parts_mut(first as *mut u8, end - first) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_overwritten_wherever_it_stands() {
        let mut memory = *b"join\0--token\0CCT1-w-x\0--token=CCT1-w-x\0";
        overwrite(&mut memory, b"CCT1-w-x");
        assert_eq!(&memory, b"join\0--token\0xxxxxxxx\0--token=xxxxxxxx\0");

        let mut like_the_filling = *b"x\0xx\0";
        overwrite(&mut like_the_filling, b"x");
        assert_eq!(&like_the_filling, b"x\0xx\0");
    }
}
