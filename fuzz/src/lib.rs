//! The fuzz targets. `cargo fuzz run <target>` fuzzes one target, `fuzz/campaign` all of them.

#[path = "../../src/cli/remote_args.rs"]
#[allow(dead_code)]
mod remote_args;
#[path = "../../src/cli/args.rs"]
#[allow(dead_code)]
mod args;
#[path = "../../src/cli/local_args.rs"]
#[allow(dead_code)]
mod local_args;
#[path = "../../src/cli/workload.rs"]
#[allow(dead_code)]
mod workload;
#[path = "../../src/cli/names.rs"]
#[allow(dead_code)]
mod names;
#[path = "../../src/cli/shared_args.rs"]
#[allow(dead_code)]
mod shared_args;
#[path = "../../src/cli/shell/line.rs"]
#[allow(dead_code)]
mod shell_line;
pub mod targets;
