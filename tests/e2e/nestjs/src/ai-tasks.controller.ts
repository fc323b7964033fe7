import { Body, Controller, Get, Param, ParseIntPipe, Patch, Query, UseGuards } from '@nestjs/common';
import { AiTasksService } from './ai-tasks.service.js';
import { JwtGuard } from './jwt.guard.js';
import type { AiTask } from './schemas.js';
import { UpdateAiTaskDto } from './update-ai-task.dto.js';

@Controller('api/ai-tasks')
@UseGuards(JwtGuard)
export class AiTasksController {
  constructor(private readonly tasks: AiTasksService) {}

  @Get('pending')
  pending(@Query('limit', new ParseIntPipe({ optional: true })) limit?: number): AiTask[] {
    return this.tasks.pending(limit);
  }

  @Patch(':id')
  update(@Param('id') id: string, @Body() update: UpdateAiTaskDto): Promise<AiTask> {
    return this.tasks.update(id, update);
  }
}
