//! `MERPATI_TRACE=DIR`: a trace of the events on each link, one JSON object a line and one file a
//! link (`docs/trace.md`). It serves to find the cause of a fault. Each event is written at once,
//! so the events before a crash are in the trace.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    sync::Mutex,
    time::{Instant, SystemTime},
};

use merpati::client::TRACE_TARGET;
use serde_json::{Map, Value, json};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use super::output::{Failure, Output};

const VARIABLE: &str = "MERPATI_TRACE";
/// The version of the format.
const SCHEMA: u64 = 1;
/// Links that one process traces at most. Further links have no file.
const FILES_MAX: usize = 1000;
/// Files that are open at once.
const OPEN_MAX: usize = 64;
/// Bytes that one process writes at most: 1 GiB.
const BYTES_MAX: u64 = 1 << 30;
/// Bytes of events without a link at most, because strangers can cause any number of these.
const STRAY_BYTES_MAX: u64 = BYTES_MAX / 8;

/// The trace of one process.
pub struct Trace {
    files: Mutex<Files>,
}

/// Starts the trace if it is wanted, and no other log.
pub fn start() -> Result<(), Failure> {
    if let Some(layer) = layer()? {
        tracing_subscriber::registry().with(layer).init();
    }
    Ok(())
}

/// Returns the layer that writes the trace, if it is wanted.
pub fn layer() -> Result<Option<impl Layer<Registry> + use<>>, Failure> {
    let Some(directory) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let directory = PathBuf::from(directory);
    let began = jiff::Timestamp::try_from(SystemTime::now()).map_err(|error| {
        Failure::local(format!(
            "{VARIABLE}: this machine's clock shows no time that a trace can name: {error}; set the clock"
        ))
    })?;
    let files = Files::begin(&directory, began.as_millisecond()).map_err(|error| {
        Failure::usage(format!(
            "{VARIABLE}: nothing can be written to {}: {error}; name a directory that is yours",
            directory.display()
        ))
    })?;
    let trace = Trace {
        files: Mutex::new(files),
    };
    let ours = Targets::new().with_target(TRACE_TARGET, LevelFilter::TRACE);
    Ok(Some(trace.with_filter(ours)))
}

impl<S: Subscriber> Layer<S> for Trace {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if let Ok(mut files) = self.files.lock() {
            files.write(line);
        }
    }
}

/// An event.
#[derive(Default)]
struct Line {
    link: Option<u32>,
    name: String,
    data: Map<String, Value>,
}

impl Line {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("link", Value::Number(link)) => {
                self.link = link.as_u64().and_then(|link| link.try_into().ok());
            }
            ("message", Value::String(name)) => self.name = name,
            (name, value) => {
                self.data.insert(name.into(), value);
            }
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // Rounded to a thousandth.
        self.put(field, json!((value * 1000.0).round() / 1000.0));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// The trace files of one process.
struct Files {
    directory: PathBuf,
    began: Instant,
    /// The start, in milliseconds since 1970.
    unix_ms: i64,
    /// Files by link, as far as they are open. Events without a link have a file of their own.
    traced: BTreeMap<Option<u32>, Option<File>>,
    written: u64,
    /// Bytes of these for events without a link.
    stray: u64,
    /// Nothing more is written.
    is_over: bool,
    /// A remark has told that events are left out.
    has_left_out: bool,
}

impl Files {
    fn begin(directory: &Path, unix_ms: i64) -> io::Result<Self> {
        make_private(directory)?;
        // Errors in writing are found now.
        try_out(directory)?;
        Ok(Self {
            directory: directory.into(),
            began: Instant::now(),
            unix_ms,
            traced: BTreeMap::new(),
            written: 0,
            stray: 0,
            is_over: false,
            has_left_out: false,
        })
    }

    fn write(&mut self, line: Line) {
        if self.is_over {
            return;
        }
        if let Err(error) = self.try_write(line) {
            self.is_over = true;
            let directory = self.directory.display();
            Output::aside(&format!(
                "the trace in {directory} ends here: {error}. The program goes on without it"
            ));
        }
    }

    fn try_write(&mut self, line: Line) -> io::Result<()> {
        let Line { link, name, data } = line;
        // Events that strangers cause do not limit the traced links.
        let is_one_more = link.is_some() && !self.traced.contains_key(&link);
        if is_one_more && self.traced.len() >= FILES_MAX {
            self.leave_out(&format!("has {FILES_MAX} files; further links have none"));
            return Ok(());
        }
        if link.is_none() && self.stray >= STRAY_BYTES_MAX {
            self.leave_out(&format!(
                "has {} MiB of events without a link; further ones are left out",
                STRAY_BYTES_MAX >> 20
            ));
            return Ok(());
        }
        let time = self.began.elapsed().as_secs_f64() * 1000.0;
        let (name, data) = (Value::from(name), Value::from(data));
        // The fields are in reading order.
        let line = format!("{{\"time\":{time:.3},\"name\":{name},\"data\":{data}}}");
        self.append(link, &line)
    }

    /// Prints, once, that events are left out.
    fn leave_out(&mut self, what: &str) {
        if !std::mem::replace(&mut self.has_left_out, true) {
            let directory = self.directory.display();
            Output::aside(&format!("the trace in {directory} {what}"));
        }
    }

    /// Appends a line to the file of a link. The first line of a file describes it.
    fn append(&mut self, link: Option<u32>, line: &str) -> io::Result<()> {
        let is_new = !self.traced.contains_key(&link);
        if self.traced.values().flatten().count() >= OPEN_MAX {
            self.traced.values_mut().for_each(|file| *file = None);
        }
        let path = self.path(link);
        let mut text = String::new();
        if is_new {
            let id = link.map(|link| format!("{link:08x}"));
            let header = json!({
                "schema": SCHEMA, "title": "merpati trace", "version": env!("CARGO_PKG_VERSION"),
                "began_unix_ms": self.unix_ms, "time_unit": "ms",
                "pid": process::id(), "link": id,
            });
            text = format!("{header}\n");
        }
        text += line;
        text.push('\n');
        self.written += text.len() as u64;
        if link.is_none() {
            self.stray += text.len() as u64;
        }
        if self.written > BYTES_MAX {
            return Err(io::Error::other("it has reached 1 GiB"));
        }
        let file = self.traced.entry(link).or_default();
        let file = match file {
            Some(file) => file,
            None => file.insert(open_append(&path)?),
        };
        file.write_all(text.as_bytes())
    }

    /// Returns the path of a file. The files of one process sort together, in the order in which
    /// the processes started.
    fn path(&self, link: Option<u32>) -> PathBuf {
        let link = link.map_or_else(|| "endpoint".into(), |link| format!("{link:08x}"));
        let name = format!("{}-{}-{link}.jsonl", self.unix_ms, process::id());
        self.directory.join(name)
    }
}

/// Creates the directory for its owner alone, because the trace shows who talks to whom and when.
/// Fails if others can write there, because they could replace a file.
#[cfg(unix)]
fn make_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::metadata(directory)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can write there"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_private(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)
}

/// Opens a file for its owner alone.
fn open_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Creates a file and removes it.
fn try_out(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".merpati-{}", process::id()));
    drop(open_append(&path)?);
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(link: u32) -> Line {
        Line {
            link: Some(link),
            name: "timer_expired".into(),
            data: Map::new(),
        }
    }

    /// The number of files is bounded when a realm with many links is traced, and each file has one
    /// first line.
    #[test]
    fn trace_files_are_bounded_and_have_one_first_line_each() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::begin(directory.path(), 1).unwrap();
        let links = 0..u32::try_from(FILES_MAX).unwrap();
        for link in links.clone().chain(links) {
            files.write(event(link));
        }
        assert!(!files.is_over);
        assert!(files.traced.values().flatten().count() <= OPEN_MAX);
        files.write(event(u32::MAX));
        assert!(!files.is_over && files.has_left_out);
        let written: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(written.len(), FILES_MAX);
        for entry in written {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(text.starts_with("{\"began_unix_ms\""), "{text}");
        }
    }

    #[test]
    fn trace_bytes_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::begin(directory.path(), 1).unwrap();
        files.write(event(0));
        let stray = || Line {
            link: None,
            ..event(0)
        };
        files.write(stray());
        files.stray = STRAY_BYTES_MAX;
        let written = files.written;
        files.write(stray());
        assert!(!files.is_over && files.written == written);
        files.written = BYTES_MAX;
        files.write(event(0));
        assert!(files.is_over);
    }
}
