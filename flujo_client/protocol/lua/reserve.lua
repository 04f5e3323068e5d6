--[[ reserve — claim one attempt, lease it and reserve its estimate, or change nothing but to record a refusal.
KEYS  1 run hash   2 attempts hash   3 accounts hash   4 payloads hash   5 event stream   6 dirty zset   7 dispatches zset
      8 published hash   9 intake hash   10 incarnations zset   11 held zset of the incarnation   12 inbox list   13 waiters zset
      14 named hash   15 named_queue zset   16 named_due zset
ARGV  1 run id   2 path   3 attempt   4 claim nonce   5 incarnation   6 schema version   7 queue
REPLY {1, task, owner, traceparent, deadline_ms, remaining, payload...} reserved | {0} duplicate | {-1, status} run inactive
      | {-2, account, meter, asked, free} blocked, it waits for budget | {-3} worker dead | {-4, account, meter, asked, free} refused for want of budget | {-5, schema} schema mismatch
      | {-6, account, meter, wait_ms} a named account delays it, wait_ms 0 if only others can make room ]]
local run = redis.call('HMGET', KEYS[1], 'schema', 'status', 'gate', 'owner', 'traceparent')
if not run[1] then return {-1, 'unknown'} end
if run[1] ~= ARGV[6] then return {-5, run[1]} end
local path, nonce = ARGV[2], ARGV[4]
local member = table.concat({ARGV[1], path, ARGV[3], ARGV[7]}, ' ')
local now = now_ms()

local attempt = redis.call('HMGET', KEYS[2], path .. '|attempt', path .. '|state', path .. '|nonce', path .. '|task',
  path .. '|terms', 'claim|' .. nonce .. '|phase', 'claim|' .. nonce .. '|answer')
local terms = terms_of(attempt[5])
local chain, book = chain_of(terms[3]), book_open(KEYS[3])
local function reserved_answer(deadline)
  local remaining = {}
  for _, meter in ipairs(words(redis.call('HGET', KEYS[3], 'meters'))) do
    remaining[#remaining + 1] = meter .. '=' .. int(reachable(lineage(book, chain, meter)))
  end
  local answer = {1, attempt[4], run[4], run[5] or '', deadline, table.concat(remaining, ' ')}
  local fields = words(terms[5])
  for at = 1, #fields, 1000 do  -- Lua unpacks no more than some 8,000 values at once
    local page = redis.call('HMGET', KEYS[4], unpack(fields, at, math.min(at + 999, #fields)))
    for i, payload in ipairs(page) do answer[5 + at + i] = payload or '' end
  end
  return answer
end

if attempt[6] then  -- the same claim again: the stored answer
  local answer = words(attempt[7])
  if attempt[6] == 'held' then return reserved_answer(attempt[7]) end
  if attempt[6] == 'blocked' then return {-2, unpack(answer)} end
  if attempt[6] == 'refused' then return {-4, unpack(answer)} end
  return {0}
end
if run[3] ~= 'open' then return {-1, run[2]} end
if attempt[1] ~= ARGV[3] or attempt[2] ~= 'dispatched' then return {0} end
if not redis.call('ZSCORE', KEYS[10], ARGV[5]) then return {-3} end  -- past its deadline it is not dead before its burial

local asking = {path = path, attempt = ARGV[3], chain = chain, estimate = amounts(terms[4])}
local desk = desk_open({book = book, run_id = ARGV[1], run = KEYS[1], attempts = KEYS[2], events = KEYS[5], dirty = KEYS[6],
  dispatches = KEYS[7], published = KEYS[8], inbox = KEYS[12], waiters = KEYS[13]})
local paid = desk.waiting and redis.call('ZSCORE', KEYS[13], 'p' .. path)
local lack = not paid and shortage(desk, asking) or nil
local bookings, short
if terms[6] then  -- accounts above the run
  local named = named_open(KEYS[14], KEYS[15], KEYS[16], terms[6])
  if lack then named_leave(named, member, KEYS[12]) else bookings, short = named_take(named, member, asking.estimate, terms, KEYS[12]) end
  named_write(named)
end
if short then
  stall(desk, asking, terms, paid, short, member, nonce)
  if short[7] then return {-4, short[1], short[2], short[3], short[4]} end
  return {-6, short[1], short[2], short[8]}
end

local published = redis.call('HGET', KEYS[8], member)
local at = published and tonumber(words(published)[1]) or 0
if at > tonumber(redis.call('HGET', KEYS[9], ARGV[7] .. '|latest') or 0) then
  redis.call('HSET', KEYS[9], ARGV[7] .. '|latest', int(at))
end
redis.call('ZREM', KEYS[7], member)
redis.call('HDEL', KEYS[8], member)
local claim = 'claim|' .. nonce .. '|'
if lack then
  redis.call('HSET', KEYS[2], path .. '|nonce', nonce)
  wait(desk, asking, ARGV[7])
  if own_limit(desk, asking, lack) then refuse(desk, asking) else unstick(desk) end
  local phase = desk.refused == path and 'refused' or 'blocked'
  if phase == 'refused' then lack = desk.lack elseif book.resting[path] then
    note(desk, 'kind', 'blocked', 'path', path, 'attempt', ARGV[3], 'account', lack[1], 'meter', lack[2], 'asked', lack[3], 'free', lack[4])
  end
  redis.call('HSET', KEYS[2], claim .. 'phase', phase, claim .. 'answer', table.concat(lack, ' '))
  desk_close(desk)
  if phase == 'refused' then return {-4, unpack(lack)} end
  return {-2, unpack(lack)}
end
if paid then
  redis.call('ZREM', KEYS[13], 'p' .. path)
  if desk.ahead >= MOST_AHEAD then book.freed.root = true end  -- some who could go on were left waiting for this
  desk.ahead = desk.ahead - 1
else
  book_estimate(desk, asking)
end
local deadline = int(now + tonumber(terms[1]))
redis.call('HSET', KEYS[2], path .. '|state', 'leased', path .. '|nonce', nonce, claim .. 'phase', 'held',
  claim .. 'answer', deadline, claim .. 'reserved', terms[4], claim .. 'path', path, claim .. 'incarnation', ARGV[5])
if bookings then redis.call('HSET', KEYS[2], claim .. 'named', bookings) end
redis.call('ZADD', KEYS[11], deadline, table.concat({ARGV[1], path, ARGV[3], nonce}, ' '))
desk_close(desk)
return reserved_answer(deadline)
