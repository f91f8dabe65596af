//! `merpati limits`: the memory that a realm can be made to use, and the data that it keeps on
//! disk.

use std::io::{self, Write as _};

use merpati::server::{Config, Holder, Holding, holdings, keepings};
use serde_json::json;

use super::{
    args::Limits,
    output::{Failure, WRITE_OUTPUT},
    serve,
};

/// Prints the limits.
pub fn limits(args: &Limits, json: bool) -> Result<(), Failure> {
    let config = serve::load(args.config.as_deref(), None)?;
    print(&config, json).map_err(Failure::cannot(WRITE_OUTPUT))
}

fn print(config: &Config, json: bool) -> io::Result<()> {
    let holdings = holdings(config);
    let mut out = std::io::stdout().lock();
    if json {
        for holding in &holdings {
            let object = json!({
                "by": holding.by.name(),
                "what": holding.what,
                "count": holding.count,
                "bytes": holding.each,
                "total": holding.total(),
                "setting": holding.setting,
            });
            writeln!(out, "{object}")?;
        }
        for keeping in keepings(config) {
            let object = json!({
                "by": "disk",
                "what": keeping.what,
                "limit": keeping.limit,
                "setting": keeping.setting,
            });
            writeln!(out, "{object}")?;
        }
    } else {
        writeln!(
            out,
            "What this realm can be made to hold in memory, at most:"
        )?;
        for by in Holder::ALL {
            let theirs = || holdings.iter().filter(|holding| holding.by == by);
            writeln!(out, "\n{:<62} {:>9}", explain(by), size(sum(theirs())))?;
            for holding in theirs() {
                let count = format!("{} × {}", holding.count, size(holding.each));
                let setting = holding.setting.unwrap_or_default();
                let total = size(holding.total());
                writeln!(
                    out,
                    "  {:<40} {count:>19} {total:>9}  {setting}",
                    holding.what
                )?;
            }
        }
        writeln!(out, "\nWhat it keeps on its disk, at most:\n")?;
        for keeping in keepings(config) {
            let (what, limit) = (keeping.what, keeping.limit);
            writeln!(out, "  {what:<40} {limit:>29}  {}", keeping.setting)?;
        }
        writeln!(
            out,
            "\nThe last column names the setting that changes a row; it is in [limits] unless another section is named. \
             Messages are kept for ever if [retention] is not set and the store is older than that section; the server logs this when it starts. \
             Messages beyond a bound of [retention] are deleted within an hour. \
             Users come near their bounds of memory only if they ask for much on every link and acknowledge nothing."
        )?;
    }
    out.flush()
}

fn sum<'a>(holdings: impl Iterator<Item = &'a Holding>) -> usize {
    holdings.fold(0, |sum, holding| sum.saturating_add(holding.total()))
}

const fn explain(by: Holder) -> &'static str {
    match by {
        Holder::Nobody => "In any case",
        Holder::Strangers => "By strangers, from whatever address",
        Holder::Devices => "By whoever receives at their address",
        Holder::Users => "By whoever has an account",
        Holder::Peers => "By the realms that are peers",
    }
}

/// Returns a size in the largest whole unit, for people.
fn size(bytes: usize) -> String {
    let (mut whole, mut rest, mut unit) = (bytes, 0, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < 1024 {
            break;
        }
        (whole, rest, unit) = (whole / 1024, whole % 1024, larger);
    }
    if rest == 0 || whole >= 100 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{} {unit}", rest * 10 / 1024)
    }
}
