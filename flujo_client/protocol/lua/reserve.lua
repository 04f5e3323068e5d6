--[[ reserve — claim one attempt, lease it and reserve its estimate, or change nothing but to record a refusal.
KEYS  1 run hash   2 attempts hash   3 accounts hash   4 payloads hash   5 event stream   6 dirty zset   7 dispatches zset
      8 published hash   9 intake hash   10 incarnations zset   11 held zset of the incarnation   12 inbox list
ARGV  1 run id   2 path   3 attempt   4 claim nonce   5 incarnation   6 schema version   7 queue
REPLY {1, task, owner, deadline_ms, remaining, payload...} reserved | {0} duplicate | {-1, status} run inactive
      | {-3} worker dead | {-4, account, meter, asked, free} refused for want of budget | {-5, schema} schema mismatch ]]
local run = redis.call('HMGET', KEYS[1], 'schema', 'status', 'gate', 'owner')
if not run[1] then return {-1, 'unknown'} end
if run[1] ~= ARGV[6] then return {-5, run[1]} end
local path, nonce = ARGV[2], ARGV[4]
local member = table.concat({ARGV[1], path, ARGV[3], ARGV[7]}, ' ')
local now = now_ms()

local attempt = redis.call('HMGET', KEYS[2], path .. '|attempt', path .. '|state', path .. '|nonce', path .. '|task',
  path .. '|terms')
local terms = {}
for term in string.gmatch((attempt[5] or '') .. ';', '([^;]*);') do terms[#terms + 1] = term end
local chain = words(terms[3])
local function reserved_answer(deadline)
  local book, remaining = book_open(KEYS[3]), {}
  for _, meter in ipairs(words(redis.call('HGET', KEYS[3], 'meters'))) do
    remaining[#remaining + 1] = meter .. '=' .. int(math.max(0, reachable(lineage(book, chain, meter))))
  end
  local answer = {1, attempt[4], run[4], deadline, table.concat(remaining, ' ')}
  local fields = words(terms[5])
  for at = 1, #fields, 1000 do  -- Lua unpacks no more than some 8,000 values at once
    local page = redis.call('HMGET', KEYS[4], unpack(fields, at, math.min(at + 999, #fields)))
    for i, payload in ipairs(page) do answer[4 + at + i] = payload or '' end
  end
  return answer
end

if attempt[1] == ARGV[3] and attempt[3] == nonce then  -- the same claim again: the stored answer
  local claim = redis.call('HMGET', KEYS[2], 'claim|' .. nonce .. '|phase', 'claim|' .. nonce .. '|answer')
  if claim[1] == 'held' then return reserved_answer(claim[2]) end
  if claim[1] == 'refused' then
    local answer = words(claim[2])
    return {-4, answer[1], answer[2], answer[3], answer[4]}
  end
  return {0}
end
if run[3] ~= 'open' then return {-1, run[2]} end
if attempt[1] ~= ARGV[3] or attempt[2] ~= 'dispatched' then return {0} end
if not redis.call('ZSCORE', KEYS[10], ARGV[5]) then return {-3} end  -- past its deadline it is not dead before its burial

local book, estimate, refusal = book_open(KEYS[3]), amounts(terms[4]), nil
for meter, asked in pairs(estimate) do
  local rows = lineage(book, chain, meter)
  if #rows > 0 then
    if draw(rows, asked) >= asked then
      rows[1].reserved, rows[1].touched = rows[1].reserved + asked, true
    elseif not refusal or meter == 'cost_nanousd' then  -- where both are short, cost is named
      refusal = {chain[1], meter, int(asked), int(reachable(rows))}
    end
  end
end

local published = redis.call('HGET', KEYS[8], member)
local at = published and tonumber(words(published)[1]) or 0
if at > tonumber(redis.call('HGET', KEYS[9], ARGV[7] .. '|latest') or 0) then
  redis.call('HSET', KEYS[9], ARGV[7] .. '|latest', int(at))
end
redis.call('ZREM', KEYS[7], member)
redis.call('HDEL', KEYS[8], member)
local claim = 'claim|' .. nonce .. '|'
if refusal then
  redis.call('HSET', KEYS[2], path .. '|state', 'closed', path .. '|nonce', nonce, claim .. 'phase', 'refused',
    claim .. 'answer', table.concat(refusal, ' '))
  append(KEYS[1], KEYS[5], KEYS[6], KEYS[12], ARGV[1], {'kind', 'refused', 'path', path, 'attempt', ARGV[3],
    'account', refusal[1], 'meter', refusal[2], 'asked', refusal[3], 'free', refusal[4]})
  return {-4, refusal[1], refusal[2], refusal[3], refusal[4]}
end
local deadline = int(now + tonumber(terms[1]))
book_write(book)
redis.call('HSET', KEYS[2], path .. '|state', 'leased', path .. '|nonce', nonce, claim .. 'phase', 'held',
  claim .. 'answer', deadline, claim .. 'reserved', terms[4], claim .. 'path', path, claim .. 'incarnation', ARGV[5])
redis.call('ZADD', KEYS[11], deadline, table.concat({ARGV[1], path, ARGV[3], nonce}, ' '))
return reserved_answer(deadline)
