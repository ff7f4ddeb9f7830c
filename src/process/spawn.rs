//! Starting bash without copying this process: `clone` with CLONE_VFORK, as cheap as `vfork`, with a pidfd at once.
//!
//! glibc's `posix_spawn` makes 136 system calls to reset signals; a keeper has done that once for all.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::packet::{Run, SpawnStep};
use super::run_as::Credentials;

/// Enough for the few frames of `child`.
const STACK_BYTES: usize = 64 << 10;

/// A process that was just started, leader of its own process group.
pub(super) struct Spawned {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

/// All that the child needs, laid out before it exists: it must not allocate, since it shares our memory.
struct Plan {
    program: *const libc::c_char,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    directory: *const libc::c_char,
    stdin: RawFd,
    outputs: [RawFd; 2],
    run_as: Option<User>,
    failed: Option<(SpawnStep, i32)>,
}

/// Who the child becomes.
struct User {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: *const libc::gid_t,
    groups_len: usize,
}

/// Starts `/bin/bash` with what `run` says, as another user if one is given. `stdin` is inherited as it is.
pub(super) fn spawn(
    run: &Run,
    stdin: RawFd,
    run_as: Option<&Credentials>,
    stack: &mut Stack,
) -> Result<Spawned, (SpawnStep, i32)> {
    let strings = |words: &[Vec<u8>]| -> Result<Vec<CString>, (SpawnStep, i32)> {
        words.iter().map(|word| CString::new(word.as_slice())).collect::<Result<_, _>>().map_err(|_| INVALID)
    };
    let (arguments, environment) = (strings(&run.arguments)?, strings(&run.environment)?);
    let directory = CString::new(run.directory.as_slice()).map_err(|_| INVALID)?;
    let [stdout, stderr] = run.outputs.as_slice() else { return Err(INVALID) };
    let program: &CStr = c"/bin/bash";
    let mut plan = Plan {
        program: program.as_ptr(),
        arguments: pointers(&arguments),
        environment: pointers(&environment),
        directory: directory.as_ptr(),
        stdin,
        outputs: [stdout.0.as_raw_fd(), stderr.0.as_raw_fd()],
        run_as: run_as.map(|user| User {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.as_ptr(),
            groups_len: user.groups.len(),
        }),
        failed: None,
    };
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack is large enough and is used by one child at a time, since CLONE_VFORK suspends us until it has
    // executed or ended; `plan` outlives that; `child` only makes system calls on what `plan` points to.
    let pid = unsafe { libc::clone(child, stack.top(), flags, (&raw mut plan).cast(), &raw mut pidfd) };
    if pid < 0 {
        return Err((SpawnStep::Clone, nix::errno::Errno::last_raw()));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if let Some(failed) = plan.failed {
        // SAFETY: waits for the child that has just ended; no status is wanted.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
        return Err(failed);
    }
    Ok(Spawned { pid, pidfd })
}

const INVALID: (SpawnStep, i32) = (SpawnStep::Execute, libc::EINVAL);

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Runs in the new process, on memory that it shares with its parent, which is suspended.
extern "C" fn child(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a Plan and is suspended until we are done with it.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    let fail = |step| (step, nix::errno::Errno::last_raw());
    // SAFETY: plain system calls on descriptors and strings that the plan keeps alive; nothing allocates or locks.
    unsafe {
        libc::setpgid(0, 0);
        for (from, to) in [(plan.stdin, 0), (plan.outputs[0], 1), (plan.outputs[1], 2)] {
            if libc::dup2(from, to) < 0 {
                plan.failed = Some(fail(SpawnStep::Clone));
                libc::_exit(127);
            }
        }
        if let Some(user) = &plan.run_as
            && !become_user(user)
        {
            plan.failed = Some(fail(SpawnStep::User));
            libc::_exit(127);
        }
        if libc::chdir(plan.directory) < 0 {
            plan.failed = Some(fail(SpawnStep::Directory));
            libc::_exit(127);
        }
        libc::execve(plan.program, plan.arguments.as_ptr(), plan.environment.as_ptr());
        plan.failed = Some(fail(SpawnStep::Execute));
        libc::_exit(127)
    }
}

/// Becomes another user for good, also by no program that would make it root again. By the kernel's own calls: the C
/// library's would speak to all threads of the process whose memory this is.
///
/// # Safety
/// `user` points to as many groups as it says.
unsafe fn become_user(user: &User) -> bool {
    #[cfg(target_pointer_width = "64")]
    use libc::{SYS_setgroups, SYS_setresgid, SYS_setresuid};
    #[cfg(target_pointer_width = "32")]
    use libc::{
        SYS_setgroups32 as SYS_setgroups, SYS_setresgid32 as SYS_setresgid, SYS_setresuid32 as SYS_setresuid,
    };
    // SAFETY: system calls on numbers, and on the groups that the caller vouches for.
    unsafe {
        libc::syscall(SYS_setgroups, user.groups_len, user.groups) == 0
            && libc::syscall(SYS_setresgid, user.gid, user.gid, user.gid) == 0
            && libc::syscall(SYS_setresuid, user.uid, user.uid, user.uid) == 0
            && leave_session_keyring()
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    }
}

/// Keys of whoever started the worker are open to all that have its session's keyring, whatever user they are.
///
/// # Safety
/// Touches no memory.
unsafe fn leave_session_keyring() -> bool {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a system call on a number and no name.
    let joined =
        unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    // A kernel without keyrings, or a container that lets nobody have any.
    joined >= 0 || matches!(nix::errno::Errno::last_raw(), libc::ENOSYS | libc::EPERM)
}

/// Memory for the child's few frames, kept for the next one.
pub(super) struct Stack(Box<[u128]>);

impl Stack {
    pub(super) fn new() -> Self {
        Self(vec![0; STACK_BYTES / size_of::<u128>()].into_boxed_slice())
    }

    /// Stacks grow downwards on every architecture that Rust's Linux knows; u128 keeps the end aligned.
    fn top(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr_range().end.cast()
    }
}
