-- The health of a TideDatabase, Outbox, Inbox or Pipeline, for Argo CD.
-- Argo CD gives a health check the base and table libraries of Lua, and no others.

-- Reasons of Ready=False that pass when what it needs arrives, as in the first minute of a sync: for Degraded, Argo CD
-- would give up a sync in waves. What is needed shows by itself what is wrong with it.
local passing = {
  ApplyFailed = true,
  Connecting = true,
  DatabaseUnavailable = true,
  InboxNotFound = true,
  InboxNotReady = true,
  NoLiveRelay = true,
  NoOwner = true,
  OutboxNotFound = true,
  OutboxNotReady = true,
  SchemaBusy = true,
  Starting = true,
  TideDatabaseNotFound = true,
}

-- And those that somebody wants.
local wanted = {
  Disabled = true,
  Paused = true,
  ScaledToZero = true,
}

local function condition(type)
  for _, found in ipairs(obj.status.conditions or {}) do
    if found.type == type then
      return found
    end
  end
end

local function health(status, found)
  local message = found.message or ""
  if found.reason ~= nil and found.reason ~= "" then
    message = message == "" and found.reason or found.reason .. ": " .. message
  end
  return {status = status, message = message}
end

if obj.status == nil or obj.status.conditions == nil then
  return {status = "Progressing", message = "The operator has not seen it yet"}
end
local ready = condition("Ready")
if ready == nil or ready.status == "Unknown" then
  return health("Progressing", ready or {message = "The operator has not judged it yet"})
end
local seen = ready.observedGeneration or obj.status.observedGeneration
if seen ~= nil and obj.metadata.generation ~= nil and seen ~= obj.metadata.generation then
  return {status = "Progressing", message = "The operator has not seen the last change yet"}
end
local paused = condition("Paused")
if paused ~= nil and paused.status == "True" then
  return health("Suspended", paused)
end
if ready.status == "True" then
  return health("Healthy", ready)
end
if wanted[ready.reason] then
  return health("Suspended", ready)
end
if passing[ready.reason] then
  return health("Progressing", ready)
end
return health("Degraded", ready)
