--[[ extend — add to a held claim's reservation, all meters or none; once per counter.
KEYS  1 attempts hash   2 accounts hash   3 named hash   4 named_queue zset   5 named_due zset
ARGV  1 path   2 claim nonce   3 counter, rising by one per extension   4 amounts, "meter=amount ..."
REPLY {1} extended | {0} lease lost | {-4, account, meter, asked, free} refused for want of budget
      | {-6, account, meter, wait_ms} a named account delays it, wait_ms 0 if only others can make room ]]
local claim = 'claim|' .. ARGV[2] .. '|'
local stored = redis.call('HMGET', KEYS[1], claim .. 'phase', claim .. 'extend', claim .. 'reserved', ARGV[1] .. '|terms',
  claim .. 'named')
if stored[1] ~= 'held' then return {0} end
if tonumber(stored[2] or 0) >= tonumber(ARGV[3]) then return {1} end
local terms = terms_of(stored[4])
local chain, book, reserved = chain_of(terms[3]), book_open(KEYS[2]), amounts(stored[3])
for meter, asked in pairs(amounts(ARGV[4])) do
  local rows = lineage(book, chain, meter)
  if #rows > 0 then
    local most, account = reachable(rows)
    if most < asked then return {-4, account, meter, int(asked), int(most)} end
    take(rows, 'reserved', asked)
  end
end
if stored[5] then  -- accounts above the run
  local named, more = named_open(KEYS[3], KEYS[4], KEYS[5], terms[6]), amounts(ARGV[4])
  if more.requests and (reserved.requests or 0) == 0 then  -- the first was booked with the attempt
    more.requests = more.requests > 1 and more.requests - 1 or nil  -- who asks for nothing more does not wait
  end
  named.extends = true
  local lack = named_lack(named, '', more, '')
  if lack and lack[7] then return {-4, lack[1], lack[2], lack[3], lack[4]} end
  if lack then
    if lack[6] == int(named.now) then  -- a slab is short: whoever manages runs fetches more
      redis.call('HSET', KEYS[3], 'want|' .. lack[1], lack[2] .. '=' .. lack[3])
      redis.call('ZADD', KEYS[5], int(named.now), lack[1])
    end
    return {-6, lack[1], lack[2], lack[8]}
  end
  redis.call('HSET', KEYS[1], claim .. 'named', merged(stored[5] .. ' ' .. named_book(named, more)))
  named_write(named)
  for id, account in pairs(named.accounts) do
    if account and account.slab then redis.call('HDEL', KEYS[3], 'want|' .. id) end  -- it was paid; who else wants something asks again
  end
end
for meter, asked in pairs(amounts(ARGV[4])) do reserved[meter] = (reserved[meter] or 0) + asked end
book_write(book)
local text = {}
for meter, amount in pairs(reserved) do text[#text + 1] = meter .. '=' .. int(amount) end
redis.call('HSET', KEYS[1], claim .. 'extend', ARGV[3], claim .. 'reserved', table.concat(text, ' '))
return {1}
