--[[ load_run — read what a manager needs to advance a run: its record, its new outcomes and the nodes on their paths. Read only.
KEYS  1 run hash   2 nodes hash   3 accounts hash   4 event stream
ARGV  1 most events to read   2 schema version   3 1 with what the accounts on the paths have free, which only a split has to know
REPLY {} no such run | {-5, schema} schema mismatch | {record, events, nodes, accounts}: record as field, value, ...; events as {id, {field, value, ...}};
      nodes as path, json, ...; accounts as "<account>|<meter>", free, ... ]]
local record = redis.call('HGETALL', KEYS[1])
if #record == 0 then return {} end
local fields = {}
for i = 1, #record, 2 do fields[record[i]] = record[i + 1] end
if fields.schema ~= ARGV[2] then return {-5, fields.schema or ''} end

local events, paths, seen = {}, {'root'}, {root = true}
local most, id = tonumber(ARGV[1]), fields['next|' .. fields.applied]
while id and #events < most do
  local event = redis.call('XRANGE', KEYS[4], id, '+', 'COUNT', 1)[1]
  events[#events + 1] = event
  local path = event[2][4]
  while path and not seen[path] do  -- the node itself and every node above it
    seen[path] = true
    paths[#paths + 1] = path
    path = string.match(path, '^(.+)[%.!][^%.!]+$')
  end
  id = fields['next|' .. id]
end

local nodes, accounts, book = {}, {}, book_open(KEYS[3])
for at = 1, #paths, 1000 do  -- Lua unpacks no more than some 8,000 values at once
  for i, node in ipairs(redis.call('HMGET', KEYS[2], unpack(paths, at, math.min(at + 999, #paths)))) do
    if node then
      nodes[#nodes + 1] = paths[at + i - 1]
      nodes[#nodes + 1] = node
    end
  end
end
local meters = ARGV[3] == '1' and words(redis.call('HGET', KEYS[3], 'meters')) or {}
for _, path in ipairs(#meters > 0 and paths or {}) do
  local chain, at = {text = ''}, path
  while at do
    chain[#chain + 1] = {id = at}
    at = string.match(at, '^(.+)[%.!][^%.!]+$') or (at ~= 'root' and 'root' or nil)
  end
  for _, meter in ipairs(meters) do
    local entry = lineage(book, chain, meter)[1]
    if entry and entry.account == path then
      accounts[#accounts + 1] = path .. '|' .. meter
      accounts[#accounts + 1] = int(free(entry))
    end
  end
end
return {record, events, nodes, accounts}
