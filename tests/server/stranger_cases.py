"""What strangers are made to ask: every operation of the SDL, in the words of a world that is there or is not.

`$name` stands for a name or an id of the world that is asked for; `$own_name` for one of the stranger's own, which is
always there. The order is one in which the owner can go through all of it: what ends something comes last.
"""

from dataclasses import dataclass

PLACE = 'entityName: "$entity", projectName: "$project"'
OWN_PLACE = 'entityName: "$own_entity", projectName: "$own_project"'
NAMED = 'artifactCollectionName: "$collection"'
PARTS = 'storagePath: "$content", uploadID: "u", completeMultipartAction: Complete, completedParts: []'
EMPTY_MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
SWEEP = "{method: random, parameters: {a: {values: [1]}}}"
PROJECT = 'name: "$project", entityName: "$entity"'
OWN_PROJECT = 'name: "$own_project", entityName: "$own_entity"'


@dataclass(frozen=True, slots=True)
class Case:
    """One question."""

    field: str
    arguments: str = ""
    selection: str = ""
    """What is asked of the answer; all that is plain, if nothing is said."""
    only_alike: bool = False
    """Whether a stranger may get something, as long as it is the same thing for what is there and what is not."""

    @property
    def is_the_owners(self) -> bool:
        """Whether the owner of what is there gets an answer to it."""
        return "$own_" not in self.arguments and not self.only_alike


QUERIES = (
    Case("users", 'query: "$email"', "edges { node { username } }"),
    Case("entity", 'name: "$entity"'),
    Case("entity", 'name: "$team"', "id members { id }"),
    Case("project", PROJECT),
    Case("model", PROJECT),
    Case("models", 'entityName: "$entity"'),
    Case("artifact", 'id: "$artifact"'),
    Case("artifactCollection", 'id: "$collection_id"'),
    Case("clientIDMapping", 'clientID: "$client_id"'),
    Case("launchAgent", 'id: "$agent"'),
    Case("runQueueItem", 'id: "$held"'),
    Case("view", 'id: "$view"'),
    Case("customChart", 'id: "$entity/$chart"'),
    # From one's own to what is somebody else's.
    Case(
        "entity",
        'name: "$own_entity"',
        'defaultResourceConfig(id: "$config") { id } project(name: "$project") { id }',
    ),
    Case("project", OWN_PROJECT, 'run(name: "$run") { id } sweep(sweepName: "$sweep") { id }'),
    Case("project", OWN_PROJECT, 'runQueue(name: "$queue") { id } artifactCollection(name: "$collection") { id }'),
    Case("project", OWN_PROJECT, 'artifact(name: "$entity/$project/$collection:latest") { id }'),
    Case("project", OWN_PROJECT, 'runQueue(name: "$own_queue") { runQueueItem(id: "$held") { id } }'),
    Case("project", OWN_PROJECT, 'sweep(sweepName: "$own_sweep") { agent(agentName: "$sweep_agent") { id } }'),
)

WHO = (
    Case("createInvite", 'entityName: "$team", username: "$own_entity"'),
    Case("createInvite", 'entityName: "$team", email: "somebody@example.com"'),
    Case("createServiceAccount", 'entityName: "$team", description: "ci"'),
    Case("deleteInvite", 'entityName: "$team", id: "$invite"'),
    Case("deleteInvite", 'entityName: "$team", id: "$member"'),
    Case("deleteInvite", 'entityName: "$own_entity", id: "$invite"'),
    Case("deleteApiKey", 'id: "$key"'),
    Case("upsertModel", PROJECT),
    Case("renameProject", 'entityName: "launchbay", oldProjectName: "$registry", newProjectName: "$registry"'),
    Case("createProjectMembers", 'projectId: "$registry_id", teamIds: ["$team_id"]'),
    Case("createProjectMembers", 'projectId: "$registry_id", userIds: ["$member"]'),
    Case("updateProjectMember", 'projectId: "$registry_id", userId: "$member", userProjectRole: "admin"'),
    Case("updateProjectTeamMember", 'projectId: "$registry_id", teamId: "$team_id", teamProjectRole: "admin"'),
    Case("deleteProjectMembers", 'projectId: "$registry_id", teamIds: ["$team_id"]'),
)

RUNS = (
    Case("upsertBucket", 'entityName: "$entity", modelName: "$project", name: "$run"'),
    Case("upsertBucket", 'id: "$run_id", notes: "n"'),
    Case(
        "upsertBucket",
        'entityName: "$own_entity", modelName: "$own_project", name: "$own_run", sweep: "$sweep"',
        "inserted",
        only_alike=True,
    ),
    Case("rewindRun", f'{PLACE}, runName: "$run", metricName: "_step", metricValue: 1'),
    Case("updateRunState", 'id: "$run_id", state: "pending"'),
    Case("createRunFiles", f'{PLACE}, runName: "$run", files: ["b.txt"]'),
    Case("markRunFilesUploaded", f'{PLACE}, runName: "$run", files: ["b.txt"]'),
    Case("notifyScriptableRunAlert", f'{PLACE}, runName: "$run", title: "t", text: "t"'),
    Case("stopRun", 'id: "$run_id"'),
    Case("deleteFiles", 'files: ["$own_file", "$file"]'),
    Case("deleteFiles", 'files: ["$file"]'),
)

ARTIFACTS = (
    Case("linkArtifact", f'{OWN_PLACE}, artifactPortfolioName: "$own_portfolio", clientID: "$client_id"'),
    Case(
        "createArtifact",
        f'{PLACE}, artifactTypeName: "dataset", artifactCollectionName: "$collection", digest: "d1", '
        "digestAlgorithm: MANIFEST_MD5",
    ),
    Case(
        "createArtifact",
        f'{OWN_PLACE}, artifactTypeName: "dataset", artifactCollectionName: "$own_collection", digest: "d2", '
        'digestAlgorithm: MANIFEST_MD5, enableDigestDeduplication: true, clientID: "$client_id"',
        "artifact { state digest artifactSequence { name } }",
        only_alike=True,
    ),
    Case(
        "createArtifactManifest",
        f'{PLACE}, artifactID: "$pending", runName: "$run", name: "wandb_manifest.json", digest: "{EMPTY_MD5}"',
    ),
    Case(
        "createArtifactManifest",
        f'{OWN_PLACE}, artifactID: "$pending", runName: "$own_run", name: "wandb_manifest.json", digest: "{EMPTY_MD5}"',
    ),
    Case("updateArtifactManifest", f'artifactManifestID: "$manifest", digest: "{EMPTY_MD5}"'),
    Case("createArtifactFiles", f'artifactFiles: [{{artifactID: "$pending", name: "z", md5: "{EMPTY_MD5}"}}]'),
    Case(
        "createArtifactFiles",
        'artifactFiles: [{artifactID: "$own_pending", name: "z", md5: "$md5"}]',
        "files { edges { node { sizeBytes } } }",
        only_alike=True,
    ),
    # The store of the tests takes no parts, from the owner either.
    Case("completeMultipartUploadArtifact", f'artifactID: "$pending", {PARTS}', only_alike=True),
    Case("completeMultipartUploadArtifact", f'artifactID: "$own_pending", {PARTS}', only_alike=True),
    Case("useArtifact", f'{PLACE}, runName: "$run", artifactID: "$artifact"'),
    Case("useArtifact", f'{OWN_PLACE}, runName: "$own_run", artifactID: "$artifact"'),
    Case("useArtifact", f'{PLACE}, runName: "$run", artifactID: "$own_artifact"'),
    Case("updateArtifact", 'artifactID: "$artifact", description: "d"'),
    Case("addAliases", 'artifactID: "$artifact", aliases: [{alias: "best"}]'),
    Case(
        "addAliases",
        f'artifactID: "$own_artifact", aliases: [{{alias: "best", {PLACE}, artifactCollectionName: "$collection"}}]',
        only_alike=True,
    ),
    Case("deleteAliases", 'artifactID: "$artifact", aliases: [{alias: "best"}]'),
    Case("updateArtifactSequence", 'artifactSequenceID: "$collection_id", description: "d"'),
    Case("moveArtifactSequence", 'artifactSequenceID: "$collection_id", destinationArtifactTypeName: "dataset"'),
    Case("createArtifactCollectionTagAssignments", f'{PLACE}, {NAMED}, tags: [{{tagName: "t"}}]', "tags { name }"),
    Case("deleteArtifactCollectionTagAssignments", f'{PLACE}, {NAMED}, tags: [{{tagName: "t"}}]'),
    Case("linkArtifact", f'{PLACE}, artifactPortfolioName: "$portfolio", artifactID: "$artifact"'),
    Case("linkArtifact", f'{PLACE}, artifactPortfolioName: "$portfolio", artifactID: "$own_artifact"'),
    Case("linkArtifact", f'{OWN_PLACE}, artifactPortfolioName: "$own_portfolio", artifactID: "$artifact"'),
    Case("linkArtifact", 'artifactPortfolioID: "$portfolio_id", artifactID: "$own_artifact"'),
    Case("updateArtifactPortfolio", 'artifactPortfolioID: "$portfolio_id", description: "d"'),
    Case("unlinkArtifact", 'artifactPortfolioID: "$portfolio_id", artifactID: "$artifact"'),
    Case("unlinkArtifact", 'artifactPortfolioID: "$portfolio_id", artifactID: "$own_artifact"'),
    Case("deleteArtifactPortfolio", 'artifactPortfolioID: "$portfolio_id"'),
    Case("deleteArtifact", 'artifactID: "$pending"'),
    Case("deleteArtifact", 'artifactID: "$artifact", deleteAliases: true'),
    Case("deleteArtifactSequence", 'artifactSequenceID: "$collection_id"'),
    Case("deleteModel", 'id: "$registry_id"'),
)
COMMIT = Case("commitArtifact", 'artifactID: "$complete"')

LAUNCH = (
    Case("createDefaultResourceConfig", 'entityName: "$entity", resource: "local-process", config: "{}"'),
    Case("createRunQueue", f'{PLACE}, queueName: "fresh", access: PROJECT, defaultResourceConfigID: "$config"'),
    Case("createRunQueue", f'{OWN_PLACE}, queueName: "fresh", access: PROJECT, defaultResourceConfigID: "$config"'),
    Case("upsertRunQueue", f'{PLACE}, queueName: "$queue", resourceType: "local-process", resourceConfig: "{{}}"'),
    Case("pushToRunQueueByName", f'{PLACE}, queueName: "$queue", runSpec: $spec'),
    Case("pushToRunQueueByName", f'{OWN_PLACE}, queueName: "$own_queue", runSpec: $spec'),
    Case("pushToRunQueue", 'queueID: "$queue_id", runSpec: $spec'),
    Case("pushToRunQueue", 'queueID: "$queue_id", runSpec: $own_spec'),
    Case("createLaunchAgent", f'{PLACE}, runQueues: ["$queue_id"], hostname: "h"'),
    Case("createLaunchAgent", f'{OWN_PLACE}, runQueues: ["$queue_id"], hostname: "h"', "__typename", only_alike=True),
    Case("updateLaunchAgent", 'launchAgentId: "$agent", agentStatus: "POLLING"'),
    Case("ackRunQueueItem", 'runQueueItemId: "$held", runName: "r", launchAgentId: "$agent"'),
    Case("ackRunQueueItem", 'runQueueItemId: "$held", runName: "r", launchAgentId: "$own_agent"'),
    Case("adoptRunQueueItem", 'runQueueItemId: "$held", runName: "r", launchAgentId: "$agent"'),
    Case("adoptRunQueueItem", 'runQueueItemId: "$held", runName: "r", launchAgentId: "$own_agent"'),
    Case("adoptRunQueueItem", 'runQueueItemId: "$own_held", runName: "r", launchAgentId: "$agent"'),
    Case("releaseRunQueueItem", 'runQueueItemId: "$held", launchAgentId: "$own_agent"'),
    Case("releaseRunQueueItem", 'runQueueItemId: "$own_held", launchAgentId: "$agent"'),
    Case("releaseRunQueueItem", 'runQueueItemId: "$broken", launchAgentId: "$agent"'),
    Case("updateRunQueueItemStatus", 'runQueueItemId: "$held", launchAgentId: "$agent", status: "preparing"'),
    Case("updateRunQueueItemWarning", 'runQueueItemId: "$held", message: "m", stage: "s"'),
    Case("stopRunQueueItem", 'runQueueItemId: "$held"'),
    Case("finishRunQueueItem", 'runQueueItemId: "$held", launchAgentId: "$agent", state: "finished"'),
    Case("deleteFromRunQueue", 'queueID: "$queue_id", runQueueItemId: "$waiting"'),
    Case("deleteFromRunQueue", 'queueID: "$own_queue_id", runQueueItemId: "$waiting"'),
    Case("popFromRunQueue", f'{PLACE}, queueName: "$queue", launchAgentId: "$agent"'),
    Case("popFromRunQueue", f'{OWN_PLACE}, queueName: "$own_queue", launchAgentId: "$agent"'),
    Case("failRunQueueItem", 'runQueueItemId: "$broken", message: "m", stage: "s"'),
    Case("stopLaunchAgent", 'launchAgentId: "$agent"'),
)

SWEEPS = (
    Case("upsertSweep", f'{PLACE}, config: "{SWEEP}"'),
    Case("upsertSweep", 'id: "$sweep_id", displayName: "d"'),
    Case("upsertSweep", f'{OWN_PLACE}, config: "{SWEEP}", launchScheduler: $scheduler'),
    Case("createAgent", f'{PLACE}, host: "h", sweep: "$sweep"'),
    Case("createAgent", f'{OWN_PLACE}, host: "h", sweep: "$sweep"'),
    Case("agentHeartbeat", 'id: "$sweep_agent"'),
    Case("enqueueSweepRun", 'id: "$sweep_id", config: "{}"'),
)

VIEWS = (
    Case("upsertView", f'{PLACE}, name: "v"'),
    Case("upsertView", 'id: "$view", displayName: "d"'),
    Case(
        "createCustomChart",
        'entity: "$entity", name: "c", displayName: "", type: "vega2", access: "PRIVATE", spec: "{}"',
        "chart { id }",
    ),
)

STATES = '"{\\"run_state_filter\\": {\\"states\\": [\\"FAILED\\"]}}"'
TRIGGER = f"enabled: true, triggeringEventType: RUN_STATE, eventFilter: {STATES}"
NOTHING = "triggeredActionType: NO_OP, triggeredActionConfig: {}"

AUTOMATIONS = (
    Case(
        "createGenericWebhookIntegration", 'entityName: "$entity", name: "w", urlEndpoint: "https://a/"', "__typename"
    ),
    Case("createSlackIntegration", 'entityName: "$entity", channelName: "s", url: "https://a/"', "__typename"),
    Case("createFilterTrigger", f'{TRIGGER}, name: "t", {NOTHING}, scopeType: PROJECT, scopeID: "$project_id"'),
    Case("createFilterTrigger", f'{TRIGGER}, name: "u", {NOTHING}, scopeType: ENTITY, scopeID: "$team_id"'),
    Case(
        "createFilterTrigger",
        f'{TRIGGER}, name: "v", scopeType: PROJECT, scopeID: "$own_project_id", triggeredActionType: GENERIC_WEBHOOK, '
        'triggeredActionConfig: {genericWebhookActionInput: {integrationID: "$integration"}}',
    ),
    Case("updateFilterTrigger", 'id: "$trigger", description: "d"'),
    Case("updateFilterTrigger", 'id: "$own_trigger", scopeType: PROJECT, scopeID: "$project_id"'),
    Case("deleteTrigger", 'triggerID: "$trigger"'),
    Case("deleteIntegration", 'id: "$integration"'),
)

ENDS = (
    Case("createAccessToken", 'viewId: "$view", projects: []', "accessToken { token }", only_alike=True),
    Case("deleteView", 'id: "$view"'),
    Case("deleteSweep", 'id: "$sweep_id"'),
    Case("deleteRun", 'id: "$run_id"', "__typename"),
    Case("deleteRunQueues", 'queueIDs: ["$own_queue_id", "$queue_id"]'),
    Case("deleteRunQueues", 'queueIDs: ["$queue_id"]'),
)

MUTATIONS = (*WHO, *RUNS, COMMIT, *ARTIFACTS, *LAUNCH, *SWEEPS, *VIEWS, *AUTOMATIONS, *ENDS)

ABOUT_ONESELF = {
    "viewer": "says who asks",
    "serverInfo": "says what the server can do",
    "generateApiKey": "makes a key of the one who asks",
    "createTeam": "makes a team of the one who asks; that a name is taken must be said",
    "createUser": "is refused in the same words, whatever is asked, to all but admins of the server",
    "organization": "is everybody's; what of it is open to whom, the tests of registries ask",
}
"""Operations without a case, and why."""
