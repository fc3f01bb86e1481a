"""Hold the Lua scripts of Redis done right; each runs as one, without other commands between.

A script checks first and writes last, because Redis rolls nothing back. `right` sends them.
"""

# Faster than MULTI from ten events on: the client packs one command and parses one answer.
APPEND = """
local ids = {}
for n = 1, #ARGV, 3 do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*',
    'type', ARGV[n], 'payload', ARGV[n + 1], 'agent_id', ARGV[n + 2])
end
return ids
"""

# The state's hash holds "VERSION:JSON" in a field for each key, so one HGET or HMGET returns both.
COMPARE_AND_SET = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
local version = found and tonumber(string.match(found, '^%d+')) or 0
if ARGV[3] ~= '' and version ~= tonumber(ARGV[3]) then
  return found
end
version = version + 1
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d:', version) .. ARGV[2])
redis.call('XADD', KEYS[2], '*', 'type', 'state.put', 'payload', ARGV[2], 'agent_id', ARGV[4],
  'key', ARGV[1], 'version', string.format('%d', version))
return version
"""

# A key of `run_once` holds "c" and the token of the claim, or "r" and the result.
COMPLETE = """
if redis.call('GET', KEYS[1]) ~= 'c' .. ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], 'r' .. ARGV[2], 'PX', ARGV[3])
return 1
"""

RELEASE = """
if redis.call('GET', KEYS[1]) ~= 'c' .. ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
"""

APPEND_ONCE = """
local done = redis.call('GET', KEYS[1])
if done then
  return {0, done}
end
local id = redis.call('XADD', KEYS[2], '*',
  'type', ARGV[1], 'payload', ARGV[2], 'agent_id', ARGV[3])
redis.call('SET', KEYS[1], id, 'PX', ARGV[4])
return {1, id}
"""

# %.0f, because cjson writes 14 digits and would store a large balance as "1e+15".
PAY = """
local done = redis.call('GET', KEYS[1])
if done then
  return {0, done}
end
local accounts = redis.call('HMGET', KEYS[2], ARGV[1], ARGV[2])
if not accounts[1] or not accounts[2] then
  return redis.error_reply('NOACCOUNT one of the accounts is not open')
end
local amount, balances, versions, currencies = tonumber(ARGV[3]), {}, {}, {}
for n = 1, 2 do
  local version, text = string.match(accounts[n], '^(%d+):(.*)$')
  local value = cjson.decode(text)
  versions[n], balances[n], currencies[n] = tonumber(version), value.balance, value.currency
end
local funds = balances[1] >= amount
if funds then
  local after = {balances[1] - amount, balances[2] + amount}
  for n = 1, 2 do
    local text = string.format('{"balance":%.0f,"currency":%s}', after[n],
      cjson.encode(currencies[n]))
    local version = string.format('%d', versions[n] + 1)
    redis.call('HSET', KEYS[2], ARGV[n], version .. ':' .. text)
    redis.call('XADD', KEYS[3], '*', 'type', 'state.put', 'payload', text, 'agent_id', ARGV[6],
      'key', ARGV[n], 'version', version)
  end
end
local payload = string.sub(ARGV[4], 1, -2) .. string.format(
  ',"sender_before":%.0f,"receiver_before":%.0f}', balances[1], balances[2])
redis.call('XADD', KEYS[4], '*', 'type', funds and 'payment.processed' or 'payment.declined',
  'payload', payload, 'agent_id', ARGV[6])
local result = '{"funds":' .. tostring(funds) .. ',"result":' .. ARGV[5] .. '}'
redis.call('SET', KEYS[1], result, 'PX', ARGV[7])
return {1, result}
"""

ALL = (APPEND, COMPARE_AND_SET, COMPLETE, RELEASE, APPEND_ONCE, PAY)
