//! A receiver of lines: Amazon Data Firehose, by PutRecordBatch.
//!
//! A call takes 500 records and 4 MiB (API reference, `PutRecordBatch`), and may take some of them
//! only: those it names with an error code are sent once more, the others are where they belong.

use async_trait::async_trait;
use aws::JsonService;
use serde_json::{Value, json};

use crate::pump::Deliver;
use crate::queue::Report;

/// A delivery stream.
#[derive(Debug)]
pub(crate) struct DeliveryStream {
    service: JsonService,
    name: String,
}

impl DeliveryStream {
    pub(crate) fn new(service: JsonService, name: String) -> Self {
        Self { service, name }
    }
}

#[async_trait]
impl Deliver<String> for DeliveryStream {
    async fn deliver(&mut self, batch: Vec<String>) -> Report<String> {
        let body = body(&self.name, &batch);
        match self.service.call("PutRecordBatch", &body).await {
            Ok(answer) => sort(batch, &answer),
            // Also a refusal: the stream may be made, or the rights given, while the lines wait.
            Err(error) => Report::failed(batch, error.to_string()),
        }
    }
}

fn body(stream: &str, batch: &[String]) -> Value {
    let records: Vec<Value> = batch
        .iter()
        .map(|line| json!({"Data": base64_simd::STANDARD.encode_to_string(line)}))
        .collect();
    json!({"DeliveryStreamName": stream, "Records": records})
}

/// Which lines an answer says were not taken.
fn sort(batch: Vec<String>, answer: &Value) -> Report<String> {
    let failed_count = answer.get("FailedPutCount").and_then(Value::as_u64);
    if failed_count == Some(0) {
        return Report::written(batch.len());
    }
    let Some(responses) = answer
        .get("RequestResponses")
        .and_then(Value::as_array)
        .filter(|responses| responses.len() == batch.len())
    else {
        return Report::failed(batch, "firehose:PutRecordBatch: the answer cannot be read");
    };
    let count = batch.len();
    let mut error = None;
    let failed: Vec<String> = batch
        .into_iter()
        .zip(responses)
        .filter_map(|(line, response)| {
            let code = response.get("ErrorCode").and_then(Value::as_str)?;
            error.get_or_insert_with(|| {
                let code: String = code.chars().filter(|c| !c.is_control()).take(100).collect();
                format!("firehose:PutRecordBatch: {code}")
            });
            Some(line)
        })
        .collect();
    Report {
        written: count - failed.len(),
        failed,
        error,
        ..Report::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<String> {
        vec!["a".into(), "b".into(), "c".into()]
    }

    #[test]
    fn only_what_was_not_taken_is_sent_once_more() {
        let report = sort(
            batch(),
            &json!({"FailedPutCount": 1, "RequestResponses": [
                {"RecordId": "1"}, {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "slow"}, {"RecordId": "3"},
            ]}),
        );
        assert_eq!((report.written, report.failed), (2, vec!["b".to_owned()]));
        assert!(report.error.unwrap().contains("ServiceUnavailable"));
        assert_eq!(sort(batch(), &json!({"FailedPutCount": 0})).written, 3);
    }

    #[test]
    fn the_largest_batch_is_within_what_a_call_may_have() {
        use crate::firehose::{BATCH, BATCH_BYTES, LONGEST_RECORD};
        let many = vec!["x".repeat(BATCH_BYTES / BATCH); BATCH];
        let (mut few, left) = (
            vec!["x".repeat(LONGEST_RECORD)],
            BATCH_BYTES - LONGEST_RECORD,
        );
        few.extend(["x".repeat(left / 2), "x".repeat(left / 2)]);
        for batch in [many, few] {
            let size = body("a", &batch).to_string().len();
            assert!((3 << 20..=4 << 20).contains(&size), "{size}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_means_nothing_was_taken() {
        for answer in [
            json!({}),
            json!([]),
            json!({"FailedPutCount": 1, "RequestResponses": [{}]}),
        ] {
            let report = sort(batch(), &answer);
            assert_eq!((report.written, report.failed.len()), (0, 3), "{answer}");
        }
    }
}
