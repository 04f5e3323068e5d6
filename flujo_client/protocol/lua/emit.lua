--[[ emit — append a chunk of a running step's stream, if its claim is still held; once per sequence number.
Past the most bytes, chunks of attempts that were superseded go first, a page a call; then a gap stands for what is left out.
KEYS  1 run hash   2 attempts hash   3 event stream
ARGV  1 path   2 attempt   3 claim nonce   4 sequence number   5 chunk   6 most bytes of chunks that the run keeps
REPLY {1} appended | {0} lease lost, or the run ends | {2} appended, or left out, before | {3} room is being made, call again | {4} no room, a gap stands for it ]]
local path, claim = ARGV[1], 'claim|' .. ARGV[3] .. '|'
local stored = redis.call('HMGET', KEYS[2], claim .. 'phase', claim .. 'emitted', claim .. 'swept', claim .. 'gap')
local run = redis.call('HMGET', KEYS[1], 'gate', 'chunk_bytes')
if stored[1] ~= 'held' or run[1] ~= 'open' then return {0} end
if tonumber(stored[2] or 0) >= tonumber(ARGV[4]) then return {2} end
local kept = tonumber(run[2] or 0) + #ARGV[5]
if kept <= tonumber(ARGV[6]) then
  redis.call('HSET', KEYS[2], claim .. 'emitted', ARGV[4])
  redis.call('HSET', KEYS[1], 'chunk_bytes', int(kept))
  redis.call('XADD', KEYS[3], '*', 'kind', 'chunk', 'path', path, 'attempt', ARGV[2], 'sequence', ARGV[4], 'data', ARGV[5])
  return {1}
end
if stored[3] ~= 'all' then  -- once per claim: it is the one that superseded others
  local page = redis.call('XRANGE', KEYS[3], '(' .. (stored[3] or '0-0'), '+', 'COUNT', 500)
  local freed, superseded = 0, {}
  for _, event in ipairs(page) do
    local fields = event[2]
    if fields[2] == 'chunk' then
      local latest = redis.call('HGET', KEYS[2], fields[4] .. '|attempt')
      if tonumber(fields[6]) < tonumber(latest or 0) then
        superseded[#superseded + 1] = event[1]
        freed = freed + #fields[10]
      end
    end
  end
  for _, id in ipairs(superseded) do redis.call('XDEL', KEYS[3], id) end
  redis.call('HSET', KEYS[2], claim .. 'swept', #page == 500 and page[#page][1] or 'all')
  redis.call('HSET', KEYS[1], 'chunk_bytes', int(tonumber(run[2] or 0) - freed))
  return {3}
end
redis.call('HSET', KEYS[2], claim .. 'emitted', ARGV[4])
if not stored[4] then
  redis.call('HSET', KEYS[2], claim .. 'gap', ARGV[4])
  redis.call('XADD', KEYS[3], '*', 'kind', 'gap', 'path', path, 'attempt', ARGV[2], 'sequence', ARGV[4])
end
return {4}
