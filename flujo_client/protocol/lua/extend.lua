--[[ extend — add to a held claim's reservation, all meters or none; once per counter. What the tree cannot pay yet waits in its place.
KEYS  1 run hash   2 attempts hash   3 accounts hash   4 event stream   5 dirty zset   6 inbox list   7 waiters zset   8 dispatches zset
      9 published hash   10 named hash   11 named_queue zset   12 named_due zset
ARGV  1 run id   2 path   3 attempt   4 claim nonce   5 counter, rising by one per extension   6 amounts, "meter=amount ..."
      7 ms for which it has waited in its place
REPLY {1} extended | {0} lease lost | {-2, account, meter, asked, free} it waits: ask again | {-4, account, meter, asked, free} refused for want of budget
      | {-6, account, meter, wait_ms} a named account delays it, wait_ms 0 if only others can make room ]]
local path, claim, waited = ARGV[2], 'claim|' .. ARGV[4] .. '|', tonumber(ARGV[7])
local stored = redis.call('HMGET', KEYS[2], claim .. 'phase', claim .. 'extend', claim .. 'named', claim .. 'reserved', claim .. 'asks',
  path .. '|terms', path .. '|blocked')
if stored[1] ~= 'held' then return {0} end
if tonumber(stored[2] or 0) >= tonumber(ARGV[5]) then return {1} end
local asks, terms = words(stored[5] or ''), terms_of(stored[6])
local state = asks[1] == ARGV[5] and asks[2] or ''
if state == 'refused' then return {-4, unpack(asks, 3)} end
if tonumber(asks[1] or 0) > tonumber(ARGV[5]) then return {-4, asks[3] or 'root', asks[4] or '', asks[5] or 0, asks[6] or 0} end  -- it asks for more since

local book = book_open(KEYS[3])
local desk = desk_open({book = book, run_id = ARGV[1], run = KEYS[1], attempts = KEYS[2], events = KEYS[4], dirty = KEYS[5], inbox = KEYS[6],
  waiters = KEYS[7], dispatches = KEYS[8], published = KEYS[9]})
local asking = {path = path, attempt = ARGV[3], chain = chain_of(terms[3]), estimate = amounts(ARGV[6]), claim = ARGV[4], counter = ARGV[5]}
local open = redis.call('HGET', KEYS[1], 'gate') == 'open'
local lack = state ~= 'paid' and shortage(desk, asking) or nil
if lack and state == 'waits' and open and waited < MOST_PATIENT_MS then return {-2, unpack(lack)} end
get_up(desk, path, ARGV[4], stored[7])  -- it waits no more, or for something else
if lack and waited >= MOST_PATIENT_MS then
  for meter, asked in pairs(asking.estimate) do borrow(book, asking.chain, meter, asked) end
  desk.stuck = true  -- nothing is kept from it
  lack = shortage(desk, asking)
  desk.stuck = false
elseif lack and open and not own_limit(desk, asking, lack) then
  redis.call('HSET', KEYS[2], claim .. 'asks', table.concat({ARGV[5], 'waits', table.concat(lack, ' '), ARGV[6]}, ' '))
  wait(desk, asking, '-')
  unstick(desk)
  if desk.refused == path then lack = desk.lack elseif not book.resting[path] then lack, state = nil, 'paid' end
  if lack then
    desk_close(desk)
    return {desk.refused == path and -4 or -2, unpack(lack)}
  end
end
if lack then
  later(desk, 'HSET', KEYS[2], claim .. 'asks', ARGV[5] .. ' refused ' .. table.concat(lack, ' '))
  desk_close(desk)
  return {-4, unpack(lack)}
end
if stored[3] then  -- accounts above the run
  local named, more, booked = named_open(KEYS[10], KEYS[11], KEYS[12], terms[6]), amounts(ARGV[6]), amounts(stored[4]).requests or 0
  if more.requests and booked == (asks[1] == ARGV[5] and asks[2] == 'paid' and more.requests or 0) then  -- the first was booked with the attempt
    more.requests = more.requests > 1 and more.requests - 1 or nil  -- who asks for nothing more does not wait
  end
  named.extends, named.waited = true, waited
  local short = named_lack(named, '', more, '')
  if short and not short[7] and short[6] == int(named.now) then  -- a slab is short: whoever manages runs fetches more
    redis.call('HSET', KEYS[10], 'want|' .. short[1], short[2] .. '=' .. short[3])
    redis.call('ZADD', KEYS[12], int(named.now), short[1])
  end
  if short then
    desk_close(desk)
    return short[7] and {-4, unpack(short, 1, 4)} or {-6, short[1], short[2], short[8]}
  end
  redis.call('HSET', KEYS[2], claim .. 'named', merged(stored[3] .. ' ' .. named_book(named, more)))
  named_write(named)
  for id, account in pairs(named.accounts) do
    if account and account.slab then redis.call('HDEL', KEYS[10], 'want|' .. id) end  -- it was paid; who else wants something asks again
    local member, since = first_waiter(named, id)
    if account and member and next(asked_of(named, account, more)) then
      local passed = words(redis.call('HGET', KEYS[10], 'passed|' .. id) or '')
      redis.call('HSET', KEYS[10], 'passed|' .. id, since .. ' ' .. int((passed[1] == since and tonumber(passed[2]) or 0) + 1))
    end
  end
end
if state ~= 'paid' then top_up(desk, asking) end
later(desk, 'HSET', KEYS[2], claim .. 'extend', ARGV[5])
desk_close(desk)
return {1}
