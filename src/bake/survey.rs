//! What exists: images in the cloud, runs on this host.

use std::path::Path;

use super::images::{channels, describe, filter};
use super::names::image_name;
use super::plan::{KnownRun, Survey, Target};
use crate::aws::{self, Clients, tags};
use crate::journal;

/// The look failed.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error(transparent)]
    Cloud(#[from] aws::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

/// Looks at everything that the plan of `target` depends on. Changes nothing.
///
/// # Errors
/// [`SurveyError`]: the cloud refused, or a journal in `runs` cannot be read.
pub async fn survey(
    clients: &Clients,
    target: &Target,
    runs: &Path,
) -> Result<Survey, SurveyError> {
    let own = ["self".to_owned()];
    let digests = target.layers.iter().map(|layer| layer.digest.clone());
    let mut survey = Survey {
        of_line: describe(
            clients,
            &own,
            vec![filter(format!("tag:{}", tags::DIGEST), digests)],
        )
        .await?,
        ..Survey::default()
    };
    if target.by_step {
        // A filter has at most 200 values (EC2 API reference, "Filtering").
        for steps in target.chain(&target.base.id).chunks(200) {
            let digests = steps.iter().map(|step| step.digest.to_string());
            let filters = vec![filter(format!("tag:{}", tags::LAYER), digests)];
            survey.steps.extend(describe(clients, &own, filters).await?);
        }
    }
    if let Some(top) = target.layers.last() {
        survey.channels = channels(clients, &top.recipe).await?;
        let name = image_name(&top.recipe, &top.version, &top.digest);
        // The name itself, and the numbered ones of forced bakes.
        let names = [name.clone(), format!("{name}-*")];
        survey.named = describe(clients, &own, vec![filter("name", names)]).await?;
    }
    for file in journal::runs(runs)? {
        if let Some(header) = file.ledger.header() {
            let known = KnownRun {
                state: file.state,
                digest: header.digest.clone(),
            };
            survey.runs.insert(header.run.clone(), known);
        }
    }
    Ok(survey)
}
