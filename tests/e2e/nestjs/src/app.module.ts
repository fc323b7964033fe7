import { Module } from '@nestjs/common';
import { AiTasksController } from './ai-tasks.controller.js';
import { AiTasksService } from './ai-tasks.service.js';
import { Callbacks } from './callbacks.js';
import { Store } from './store.js';

@Module({
  controllers: [AiTasksController],
  providers: [AiTasksService, Callbacks, Store],
  exports: [AiTasksService, Store],
})
export class AppModule {}
