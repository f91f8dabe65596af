//! The chart: the latencies of commands and of the echo, by quantile.

use std::{fmt::Write as _, fs, path::Path};

use hdrhistogram::Histogram;

use super::{Failure, report::Report};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 330.0;
/// The number of nines at the end of the axis.
const NINES: f64 = 4.0;
/// Points of a line.
const POINTS: u32 = 200;

/// Draws the report into `file`.
pub fn draw(report: &Report, file: &Path) -> Result<(), Failure> {
    let lines = [
        ("the realm", "#0b7285", &report.load.latency),
        ("bare echo", "#adb5bd", &report.echo.latency),
    ];
    let (load, echo) = (&report.load.latency, &report.echo.latency);
    let decades = Decades {
        from: log(load.min().min(echo.min()).max(1)).floor(),
        to: log(load.max().max(echo.max())).ceil(),
    };
    let svg = picture(report, &lines, &decades).map_err(Failure::local)?;
    fs::write(file, svg).map_err(|error| {
        Failure::local(format!(
            "cannot write the chart {}: {error}",
            file.display()
        ))
    })
}

/// The powers of ten, in microseconds, between which all latencies lie.
struct Decades {
    from: f64,
    to: f64,
}

impl Decades {
    fn y(&self, micros: u64) -> f64 {
        let part = (log(micros.max(1)) - self.from) / (self.to - self.from).max(1.0);
        BOTTOM - part * (BOTTOM - TOP)
    }
}

fn log(micros: u64) -> f64 {
    (micros as f64).log10()
}

/// Returns the position of a number of nines on the axis.
fn x(nines: f64) -> f64 {
    LEFT + nines / NINES * (RIGHT - LEFT)
}

fn picture(
    report: &Report,
    lines: &[(&str, &str, &Histogram<u64>)],
    decades: &Decades,
) -> Result<String, std::fmt::Error> {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\">{} \
         connections, {} in flight each, {} of {} bytes</text>\n",
        report.plan.connections, report.plan.in_flight, report.plan.mix, report.plan.size
    );
    let mut decade = decades.from;
    while decade <= decades.to {
        let y = BOTTOM
            - (decade - decades.from) / (decades.to - decades.from).max(1.0) * (BOTTOM - TOP);
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\" stroke=\"#e9ecef\"/><text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            power(decade)
        )?;
        decade += 1.0;
    }
    for (nines, name) in [
        (0.0, "0 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
    ] {
        let x = x(nines);
        // The last label ends at the edge of the chart.
        let anchor = if nines < NINES { "middle" } else { "end" };
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
            BOTTOM + 20.0
        )?;
    }
    for (at, (name, colour, histogram)) in lines.iter().enumerate() {
        let points: Vec<String> = (0..=POINTS)
            .map(|point| {
                let nines = f64::from(point) / f64::from(POINTS) * NINES;
                let quantile = 1.0 - 10.0_f64.powf(-nines);
                let y = decades.y(histogram.value_at_quantile(quantile));
                format!("{:.1},{y:.1}", x(nines))
            })
            .collect();
        let points = points.join(" ");
        writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{:.1}\" \
             y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            LEFT + 10.0,
            TOP + 16.0 * (at as f64 + 1.0)
        )?;
    }
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">share of commands that take no longer</text>\n</svg>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 46.0
    )?;
    Ok(svg)
}

/// Returns a power of ten in microseconds, as people read it.
fn power(decade: f64) -> String {
    let name = |value: f64, unit: &str| format!("{value:.0} {unit}");
    if decade < 3.0 {
        name(10.0_f64.powf(decade), "µs")
    } else if decade < 6.0 {
        name(10.0_f64.powf(decade - 3.0), "ms")
    } else {
        name(10.0_f64.powf(decade - 6.0), "s")
    }
}
