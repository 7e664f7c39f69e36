//! Metrics of HTTP and of what is done with its bodies.

use super::Exposition;

/// Limits that refuse nothing.
pub(super) fn limits(text: &mut Exposition) {
    text.family(
        "flowdog_http_limits_total",
        "counter",
        "How often a limit was reached beyond which nothing is refused, by its key.",
    );
    for (limit, count) in proxy::SoftLimit::counts() {
        text.sample(&[("limit", &limit.as_str())], count);
    }
}

/// The threads that turn images.
#[cfg(feature = "images")]
pub(super) fn images(text: &mut Exposition) {
    let stats = images::stats();
    text.single(
        "flowdog_image_threads",
        "gauge",
        "Threads that turn images; none before the first image.",
        stats.threads as u64,
    );
    text.single(
        "flowdog_images_waiting",
        "gauge",
        "Images that wait for a thread.",
        stats.waiting as u64,
    );
    text.single(
        "flowdog_images_total",
        "counter",
        "Images that were taken up since the start, whatever came of it.",
        stats.images,
    );
    text.family(
        "flowdog_image_seconds_total",
        "counter",
        "Time that the threads for images took for them.",
    );
    text.sample(&[], stats.time.as_secs_f64());
}
