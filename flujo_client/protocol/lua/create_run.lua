--[[ create_run — store a new run, its input and its root account, and hand it to its manager; once per run id. A refused submission
of this id (refuse_run.lua) makes room.
KEYS  1 run hash   2 accounts hash   3 payloads hash   4 event stream   5 dirty zset   6 owned set   7 inbox list   8 active zset
      9 deadlines zset   10 named hash   11 specs hash   12 spec_runs hash
ARGV  1 run id   2 fingerprint of spec and input   3 owner   4 spec hash   5 pipeline name   6 input payload
      7 context payload, '' for none   8 limits, "meter=amount ..."   9 traceparent   10 schema version   11 metadata
      12 ms from now to its deadline, '' for none   13 named accounts that pay for it   14 those that its steps name
REPLY {1} created | {0, status} the same run is stored already | {-1} another run has this id | {-2, account} no such account | {-3} its spec is not kept ]]
local stored = redis.call('HMGET', KEYS[1], 'fingerprint', 'status')
if stored[1] and stored[1] ~= 'refused' then
  if stored[1] == ARGV[2] then return {0, stored[2]} end
  return {-1}
end
if redis.call('HSTRLEN', KEYS[11], ARGV[4]) == 0 then return {-3} end

local accounts, known = words(ARGV[13]), {}
if #accounts > 0 or ARGV[14] ~= '' then
  for _, name in ipairs(words(redis.call('HGET', KEYS[10], 'names'))) do known[name] = true end
  for _, name in ipairs(words(ARGV[13] .. ' ' .. ARGV[14])) do
    if not known[name] then return {-2, name} end
  end
end
for pattern, name in string.gmatch(redis.call('HGET', KEYS[10], 'rules') or '', '(%S+) (%S+)') do
  local stem = string.match(pattern, '^(.*)%*$')
  if pattern == ARGV[5] or (stem and string.sub(ARGV[5], 1, #stem) == stem) then accounts[#accounts + 1] = name end
end

if stored[1] then redis.call('DEL', KEYS[1], KEYS[3]) end
local now = int(now_ms())
redis.call('HSET', KEYS[1], 'schema', ARGV[10], 'run_id', ARGV[1], 'fingerprint', ARGV[2], 'owner', ARGV[3],
  'spec', ARGV[4], 'pipeline', ARGV[5], 'limits', ARGV[8], 'traceparent', ARGV[9], 'metadata', ARGV[11],
  'status', 'running', 'counted', '1', 'gate', 'open', 'revision', '0', 'operation', '', 'applied', '0-0', 'created_ms', now)
if #accounts > 0 then redis.call('HSET', KEYS[1], 'accounts', table.concat(accounts, ' ')) end
redis.call('HINCRBY', KEYS[12], ARGV[4], 1)  -- until finish, so that retire_specs leaves it
redis.call('HSET', KEYS[3], 'input', ARGV[6])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[3], 'ctx:root', ARGV[7]) end

local meters = {}
for meter, amount in pairs(amounts(ARGV[8])) do
  meters[#meters + 1] = meter
  redis.call('HSET', KEYS[2], 'root|' .. meter, int(amount) .. ' 0 0 0 0 0 0 0 0 0')
end
redis.call('HSET', KEYS[2], 'meters', table.concat(meters, ' '), 'life|root', '1 0 open')
redis.call('SADD', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[8], now, ARGV[1])
if ARGV[12] ~= '' then redis.call('ZADD', KEYS[9], int(tonumber(now) + tonumber(ARGV[12])), ARGV[1]) end
append(KEYS[1], KEYS[4], KEYS[5], KEYS[7], ARGV[1], {'kind', 'created', 'path', 'root', 'spec', ARGV[4], 'owner', ARGV[3], 'limits', ARGV[8],
  'accounts', table.concat(accounts, ' '), 'metadata', ARGV[11], 'traceparent', ARGV[9]})  -- all that its manager has to know
return {1}
