//! The program: reads the command line, then hands over to one role.

fn main() -> std::process::ExitCode {
    clusterctl::cli::main()
}
